"""Two real workers under load, for as long as is wished, changed every ten seconds: is anything lost, wrong, leaking?

    python -m tools.soak --minutes 30

A decoder and an encoder run as processes of their own, metered by the stand-in for NVIDIA's library, whose watts this
tool sets: so it knows the joules that the counter must have counted without asking the worker. Clients send requests of
every kind, good and bad, and check every answer; a writer changes the running profile through the control port.
Everything stays on this machine's loopback interface.
"""
