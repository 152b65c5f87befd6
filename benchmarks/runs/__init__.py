"""What a run does: build the model, train it, evaluate its cells or take times, and ship weights."""
