"""Every interleaving of the real transitions and the real hand-over code, within small bounds. See README.md."""
