"""What earlier releases have left in a server, kept to see that later ones can finish it: `python -m tests.releases`
writes such a file, `tests/test_upgrades.py` goes on from each."""
