"""One process's view of training. Read ``loop.py`` and ``config.py`` first."""
