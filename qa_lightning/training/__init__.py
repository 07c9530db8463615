"""Training with Lightning: data module, module, optimizer, callbacks, the run and its end."""
