"""Runs the cases of every SDK in this environment. `main.py new`: all; `main.py old`: Anthropic's alone. Names behind it
choose modules: `main.py new litellm_cases`."""

import importlib
import importlib.metadata
import sys

import bench

SDKS = {
    "new": [
        ("openai", "openai_cases"),
        ("openai", "responses_cases"),
        ("openai", "operations_cases"),
        ("openai", "realtime_cases"),
        ("anthropic", "anthropic_cases"),
        ("google-genai", "google_cases"),
        ("litellm", "litellm_cases"),
        ("mistralai", "mistral_cases"),
        ("boto3", "boto3_cases"),
        ("cohere", "cohere_cases"),
    ],
    "old": [("anthropic", "anthropic_cases")],
}

failed = 0
for package, module in SDKS[sys.argv[1]]:
    if sys.argv[2:] and module not in sys.argv[2:]:
        continue
    importlib.import_module(module)
    failed += bench.run(f"python {package} {importlib.metadata.version(package)}")
sys.exit(1 if failed else 0)
