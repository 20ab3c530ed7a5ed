"""Flower: federated averaging over all nodes that are connected."""
