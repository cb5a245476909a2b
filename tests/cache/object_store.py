"""An object store for tests: moto's server on loopback, and a proxy before it that injects faults."""
