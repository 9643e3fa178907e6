/* A stand-in for libnvidia-ml.so.1: boards that do not exist, with an energy counter that does what NVML's does.
 *
 * For tests and for the demo on machines without a GPU; selected by LD_LIBRARY_PATH. Watts come from a file, or from the CPU
 * time of the process that asks: idle + (max - idle) x its share of one CPU, clamped at the power limit. Joules are the integral of these watts.
 *
 * Environment (read at every call, so that a test may change it in a file while a process runs):
 *   NVML_STUB_WATTS_FILE   watts of each board, one number; read at every call. A second number is the counter itself, in joules:
 *                          with it several processes see one board, as they do behind a driver; replace the file in one go
 *   NVML_STUB_IDLE_W (25)  NVML_STUB_MAX_W (72)  NVML_STUB_NAME ("Stub L4")  NVML_STUB_BOARDS (1, at most 16)
 *   NVML_STUB_BACKWARDS_AFTER_S  once, after so many seconds, the counter starts again from 0 (a driver reload)
 *   NVML_STUB_REFRESH_MS   the counter is seen to move only every so many milliseconds (0 = always; NVML: about 100)
 *   NVML_STUB_NO_ENERGY    set: the energy counter is not supported (a board before Volta)
 *   NVML_STUB_TROUBLE      frozen: the counter stands still, the power sensor does not; permission: the counter may not be
 *                          read; lost: every question about a board is answered with "GPU is lost"
 *   NVML_STUB_LOST_BOARD   the board of this index has fallen off the bus: it is counted, and not even its handle can be had
 *   NVML_STUB_MIG          set: the board is cut into MIG instances; MIG-57ab0000-0000-0000-0000-N is one of board N
 *   NVML_STUB_LIMITS_FILE  power limits of the boards, one number of milliwatts a line (missing: the default), as the driver
 *                          keeps them from one process to the next; without it nobody may set a limit
 *   NVML_STUB_SET_LIMIT    ignored: setting a limit succeeds and changes nothing; refused: no permission
 *   NVML_STUB_PIDS_FILE    process ids at work on every board; missing: none
 *   NVML_STUB_SHORT_UUIDS  set: boards are called GPU-0, GPU-1, ... like the devices of tools/localcluster's device plugin
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int nvmlReturn_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { MAX_BOARDS = 16, DEFAULT_MIN_LIMIT_MW = 40000 };

typedef struct { int index; double joules, seen_joules, last_s, seen_s, cpu_s, watts; int reset; } board_t;
typedef board_t *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } nvmlProcessInfo_t;
typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType;
    nvmlReturn_t nvmlReturn;
    union { double d; unsigned int ui; unsigned long ul; unsigned long long ull; } value;
} nvmlFieldValue_t;
enum { POWER_INSTANT = 186 };

static board_t boards[MAX_BOARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double started_s;
static int initialized;

static double number(const char *name, double otherwise) {
    const char *text = getenv(name);
    return text && *text ? atof(text) : otherwise;
}

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static unsigned int count(void) {
    int boards_wanted = (int)number("NVML_STUB_BOARDS", 1);
    return boards_wanted < 0 ? 0 : boards_wanted > MAX_BOARDS ? MAX_BOARDS : (unsigned int)boards_wanted;
}

static double max_w(void) { return number("NVML_STUB_MAX_W", 72); }

/* The limit of a board, in milliwatts. */
static unsigned int limit_mw(const board_t *board) {
    const char *path = getenv("NVML_STUB_LIMITS_FILE");
    unsigned int milliwatts = 0;
    FILE *file = path && *path ? fopen(path, "r") : NULL;
    for (int i = 0; file && i <= board->index; i++)
        if (fscanf(file, "%u", &milliwatts) != 1) {
            milliwatts = 0;
            break;
        }
    if (file) fclose(file);
    return milliwatts ? milliwatts : (unsigned int)(max_w() * 1000);
}

/* Watts between the last look and now; the counter, where the file tells it, else negative. */
static double watts_since(board_t *board, double now_s, double cpu_s, double *counter_joules) {
    const char *path = getenv("NVML_STUB_WATTS_FILE");
    double idle = number("NVML_STUB_IDLE_W", 25), watts = idle;
    FILE *file = path && *path ? fopen(path, "r") : NULL;
    *counter_joules = -1;
    if (file) {
        int found = fscanf(file, "%lf %lf", &watts, counter_joules);
        if (found < 1) watts = idle;
        if (found < 2) *counter_joules = -1;
        fclose(file);
    } else {
        double passed = now_s - board->last_s, share = passed > 0 ? (cpu_s - board->cpu_s) / passed : 0;
        if (share > 1) share = 1;
        watts = idle + (max_w() - idle) * share;
    }
    return watts > limit_mw(board) / 1000.0 ? limit_mw(board) / 1000.0 : watts;
}

static int trouble(const char *kind) {
    const char *given = getenv("NVML_STUB_TROUBLE");
    return given && !strcmp(given, kind);
}

static int lost(const board_t *board) {
    const char *given = getenv("NVML_STUB_LOST_BOARD");
    return given && *given && atoi(given) == board->index;
}

static void look(board_t *board) {
    double now_s = seconds(CLOCK_MONOTONIC), cpu_s = seconds(CLOCK_PROCESS_CPUTIME_ID);
    double backwards_s = number("NVML_STUB_BACKWARDS_AFTER_S", 0), refresh_s = number("NVML_STUB_REFRESH_MS", 0) / 1000;
    if (now_s - board->last_s >= 0.001) { /* shorter looks would make noise of the CPU clock's steps */
        double counter_joules;
        board->watts = watts_since(board, now_s, cpu_s, &counter_joules);
        if (counter_joules >= 0) board->joules = counter_joules;
        else board->joules += board->watts * (now_s - board->last_s);
        board->last_s = now_s;
        board->cpu_s = cpu_s;
    }
    if (backwards_s > 0 && !board->reset && now_s - started_s >= backwards_s) {
        board->joules = board->seen_joules = 0;
        board->reset = 1;
    }
    if (!trouble("frozen") && now_s - board->seen_s >= refresh_s) {
        board->seen_joules = board->joules;
        board->seen_s = now_s;
    }
}

nvmlReturn_t nvmlInit_v2(void) {
    pthread_mutex_lock(&lock);
    if (!initialized++) {
        double now_s = seconds(CLOCK_MONOTONIC), cpu_s = seconds(CLOCK_PROCESS_CPUTIME_ID);
        started_s = now_s;
        for (int i = 0; i < MAX_BOARDS; i++) {
            double counter_joules;
            boards[i] = (board_t){.index = i, .joules = 1000.0 * (i + 1), .seen_joules = 1000.0 * (i + 1),
                                  .last_s = now_s, .seen_s = now_s, .cpu_s = cpu_s, .watts = number("NVML_STUB_IDLE_W", 25)};
            watts_since(&boards[i], now_s, cpu_s, &counter_joules);
            if (counter_joules >= 0) boards[i].joules = boards[i].seen_joules = counter_joules;
        }
    }
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }

nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t result = initialized > 0 ? (initialized--, SUCCESS) : UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return result;
}

const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
        case SUCCESS: return "Success";
        case UNINITIALIZED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NO_PERMISSION: return "Insufficient Permissions";
        case NOT_FOUND: return "Not Found";
        case INSUFFICIENT_SIZE: return "Insufficient Size";
        case GPU_IS_LOST: return "GPU is lost";
        default: return "Unknown Error";
    }
}

static nvmlReturn_t print(char *buffer, unsigned int length, const char *text) {
    if (strlen(text) + 1 > length) return INSUFFICIENT_SIZE;
    memcpy(buffer, text, strlen(text) + 1);
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) { return print(version, length, "580.00.stub"); }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) { return print(version, length, "13.580.00"); }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *boards_here) {
    if (!initialized) return UNINITIALIZED;
    *boards_here = count();
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (!initialized) return UNINITIALIZED;
    if (index >= count()) return INVALID_ARGUMENT;
    if (lost(&boards[index])) return GPU_IS_LOST;
    *device = &boards[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    char text[64];
    const char *brief = getenv("NVML_STUB_SHORT_UUIDS");
    snprintf(text, sizeof text, brief && *brief ? "GPU-%d" : "GPU-57ab0000-0000-0000-0000-%012d", device->index);
    return print(uuid, length, text);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    for (unsigned int i = 0; i < count(); i++) {
        char text[64];
        nvmlDeviceGetUUID(&boards[i], text, sizeof text);
        if (!strcmp(text, uuid)) return lost(&boards[i]) ? GPU_IS_LOST : (*device = &boards[i], SUCCESS);
        snprintf(text, sizeof text, "MIG-57ab0000-0000-0000-0000-%u", i);
        if (getenv("NVML_STUB_MIG") && !strcmp(text, uuid)) return *device = &boards[i], SUCCESS;
    }
    return NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t instance, nvmlDevice_t *device) {
    return *device = instance, SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    const char *given = getenv("NVML_STUB_NAME");
    (void)device;
    return print(name, length, given && *given ? given : "Stub L4");
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) { return *minor = (unsigned int)device->index, SUCCESS; }

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) { return *index = (unsigned int)device->index, SUCCESS; }

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    const char *refused = getenv("NVML_STUB_NO_ENERGY");
    if (trouble("lost") || lost(device)) return GPU_IS_LOST;
    if (trouble("permission")) return NO_PERMISSION;
    if (refused && *refused) return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    look(device);
    *millijoules = (unsigned long long)(device->seen_joules * 1000);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    if (trouble("lost") || lost(device)) return GPU_IS_LOST;
    pthread_mutex_lock(&lock);
    look(device);
    *milliwatts = (unsigned int)(device->watts * 1000);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* Only the instant power of the whole board is known here. */
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count_wanted, nvmlFieldValue_t *values) {
    if (trouble("lost") || lost(device)) return GPU_IS_LOST;
    for (int i = 0; i < count_wanted; i++) {
        values[i].nvmlReturn = values[i].fieldId == POWER_INSTANT ? nvmlDeviceGetPowerUsage(device, &values[i].value.ui) : NOT_SUPPORTED;
        values[i].valueType = 1; /* unsigned int */
    }
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    const char *given = getenv("NVML_STUB_MIG");
    (void)device;
    *current = *pending = given && *given;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *milliwatts) {
    if (trouble("lost") || lost(device)) return GPU_IS_LOST;
    return *milliwatts = limit_mw(device), SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatts) {
    return nvmlDeviceGetPowerManagementLimit(device, milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned int *milliwatts) {
    if (trouble("lost") || lost(device)) return GPU_IS_LOST;
    return *milliwatts = (unsigned int)(max_w() * 1000), SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least, unsigned int *most) {
    nvmlReturn_t result = nvmlDeviceGetPowerManagementDefaultLimit(device, most);
    if (result == SUCCESS) *least = *most < DEFAULT_MIN_LIMIT_MW ? *most : DEFAULT_MIN_LIMIT_MW;
    return result;
}

/* Setting the limit is the node agent's privilege, not a pod's. */
nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int milliwatts) {
    const char *path = getenv("NVML_STUB_LIMITS_FILE"), *given = getenv("NVML_STUB_SET_LIMIT");
    unsigned int limits[MAX_BOARDS], least, most;
    char part[4096];
    nvmlReturn_t result = nvmlDeviceGetPowerManagementLimitConstraints(device, &least, &most);
    if (result != SUCCESS) return result;
    if (!path || !*path || (given && !strcmp(given, "refused"))) return NO_PERMISSION;
    if (milliwatts < least || milliwatts > most) return INVALID_ARGUMENT;
    if (given && !strcmp(given, "ignored")) return SUCCESS;
    pthread_mutex_lock(&lock);
    for (unsigned int i = 0; i < count(); i++) limits[i] = limit_mw(&boards[i]);
    limits[device->index] = milliwatts;
    snprintf(part, sizeof part, "%s.part", path);
    FILE *file = fopen(part, "w");
    for (unsigned int i = 0; file && i < count(); i++) fprintf(file, "%u\n", limits[i]);
    result = file && !fclose(file) && !rename(part, path) ? SUCCESS : NO_PERMISSION;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    (void)device;
    *memory = (nvmlMemory_t){24ULL << 30, 24ULL << 30, 0};
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    double idle = number("NVML_STUB_IDLE_W", 25), span = max_w() - idle;
    pthread_mutex_lock(&lock);
    look(device);
    utilization->gpu = span > 0 ? (unsigned int)(100 * (device->watts - idle) / span) : 0;
    utilization->memory = 0;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *room, nvmlProcessInfo_t *processes) {
    const char *path = getenv("NVML_STUB_PIDS_FILE");
    FILE *file = path && *path ? fopen(path, "r") : NULL;
    unsigned int found = 0, pid;
    (void)device;
    while (file && fscanf(file, "%u", &pid) == 1) {
        if (processes && found < *room) processes[found] = (nvmlProcessInfo_t){.pid = pid};
        found++;
    }
    if (file) fclose(file);
    nvmlReturn_t result = found > (processes ? *room : 0) ? INSUFFICIENT_SIZE : SUCCESS;
    return *room = found, result;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *room, nvmlProcessInfo_t *processes) {
    (void)device, (void)processes;
    return *room = 0, SUCCESS;
}
