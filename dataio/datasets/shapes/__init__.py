"""Parametric furniture, vessels, vehicles and more: the shapes of the built-in benchmark."""
