"""LitServe around the graph of a bundle, for ``benchmarks/service.py``; run by its own Python.

Decodes, resizes, runs the network, gives probabilities: none of the quality, rejection or
prediction-set work of ``leukoscope serve``. Batching is LitServe's default.
"""

import argparse
import json
from pathlib import Path

import cv2
import litserve
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("bundle")
parser.add_argument("--engine", default="onnxruntime")
parser.add_argument("--port", type=int, required=True)
OPTIONS = parser.parse_args()  # here, for LitServe starts this file again in its workers


class Classify(litserve.LitAPI):
    """One image a request."""

    def setup(self, device):
        folder = Path(OPTIONS.bundle)
        record = json.loads((folder / "bundle.json").read_text())
        self.names = record["class_names"]
        self.size_px = record["preprocess"]["size_px"]
        if OPTIONS.engine == "openvino":
            import openvino

            # In float32, as Leukoscope computes: some processors would take bfloat16.
            options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            model = str(folder / "model.onnx")
            compiled = openvino.Core().compile_model(model, "CPU", options)
            self.run = lambda batch: compiled(batch)["logits"]
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
            )
            self.run = lambda batch: session.run(["logits"], {"image": batch})[0]

    def decode_request(self, request):
        data = request["files"].file.read()
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)
        return cv2.resize(image, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA)

    def predict(self, image):
        logits = self.run(image[None])[0]
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()

    def encode_response(self, probabilities):
        return {f"p_{n}": float(p) for n, p in zip(self.names, probabilities, strict=True)}


if __name__ == "__main__":
    server = litserve.LitServer(Classify(), accelerator="cpu")
    server.run(port=OPTIONS.port, host="127.0.0.1", log_level="error", generate_client_file=False)
