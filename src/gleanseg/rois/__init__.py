"""The ontology of regions of interest."""
