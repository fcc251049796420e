"""Networks as ONNX graphs: exporting, keeping traces, variants for prediction."""
