"""What is stored of runs: frozen values, which are written to bytes and read from them. Nothing here does I/O, or knows
a client or a broker."""
