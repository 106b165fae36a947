"""Start caches from host to host: equal hosts do not compile what one of them has compiled already."""
