"""A run's networks for other programs: ONNX, torch.export, the Hugging Face Hub, PyTorch's tutorial; and from it."""
