"""How fast frcore is, beside packages that do the same work: `make bench`."""
