// Command fakegpu is a Kubernetes device plugin that offers N nvidia.com/gpu which do not exist.
//
// A container that gets some of them sees their numbers in CUDA_VISIBLE_DEVICES. SIGUSR1 marks the last healthy device
// unhealthy, SIGUSR2 makes all healthy again. It registers again whenever the kubelet has removed its socket.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	resource = "nvidia.com/gpu"
	endpoint = "lowbeam-fakegpu.sock"
)

type plugin struct {
	api.UnimplementedDevicePluginServer
	mu      sync.Mutex
	healthy []bool
	changed chan struct{} // closed and replaced on every change of health
}

func (p *plugin) devices() ([]*api.Device, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	devices := make([]*api.Device, len(p.healthy))
	for i, ok := range p.healthy {
		health := api.Unhealthy
		if ok {
			health = api.Healthy
		}
		devices[i] = &api.Device{ID: "GPU-" + strconv.Itoa(i), Health: health}
	}
	return devices, p.changed
}

func (p *plugin) flip(signal os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.healthy) - 1; i >= 0; i-- {
		if signal == syscall.SIGUSR2 {
			p.healthy[i] = true
		} else if p.healthy[i] {
			p.healthy[i] = false
			break
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	for {
		devices, changed := p.devices()
		if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		ids := append([]string(nil), container.DevicesIds...)
		sort.Strings(ids)
		numbers := make([]string, len(ids))
		for i, id := range ids {
			numbers[i] = strings.TrimPrefix(id, "GPU-")
		}
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{Envs: map[string]string{
			"CUDA_VISIBLE_DEVICES":   strings.Join(numbers, ","),
			"NVIDIA_VISIBLE_DEVICES": strings.Join(ids, ","),
		}})
	}
	return response, nil
}

func (p *plugin) serve(socket string) (*grpc.Server, error) {
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go func() { _ = server.Serve(listener) }()
	return server, nil
}

func register(kubelet string) error {
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = api.NewRegistrationClient(connection).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: endpoint, ResourceName: resource,
	})
	return err
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: fakegpu COUNT KUBELET_DEVICE_PLUGIN_DIRECTORY")
	}
	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	p := &plugin{healthy: make([]bool, count), changed: make(chan struct{})}
	for i := range p.healthy {
		p.healthy[i] = true
	}
	flips := make(chan os.Signal, 4)
	signal.Notify(flips, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for received := range flips {
			p.flip(received)
		}
	}()
	socket := filepath.Join(os.Args[2], endpoint)
	var server *grpc.Server
	for ; ; time.Sleep(200 * time.Millisecond) {
		if _, err := os.Stat(socket); server != nil && err == nil {
			continue
		}
		if server != nil {
			server.Stop()
		}
		if server, err = p.serve(socket); err != nil {
			log.Print(err)
			continue
		}
		if err := register(filepath.Join(os.Args[2], "kubelet.sock")); err != nil {
			log.Print(err)
			server.Stop()
			server = nil
			continue
		}
		fmt.Printf("registered %d %s\n", count, resource)
	}
}
