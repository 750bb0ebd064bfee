"""How a case is put before each peer. These modules run inside the peer's environment; each imports its peer when it is asked."""
