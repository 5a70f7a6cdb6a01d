"""What is stored of runs: frozen values, to and from bytes. No I/O, no client, no broker."""
