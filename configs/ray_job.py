r"""A batch as a Ray job: sent to a cluster, it goes on when you close your laptop.

From a machine that reaches the cluster's dashboard (`ray dashboard configs/ray-cluster.yaml`):

    ray job submit --address http://127.0.0.1:8265 --working-dir configs -- \
        python ray_job.py batch.jsonl /shared/runs/today --model Qwen/Qwen3-32B-TEE

The folder is on storage that all nodes see, as /shared of configs/ray-cluster.yaml, or a URL (s3://…)
with that storage's package on every node.

The key is not sent: the job finds it where Ray was started on the cluster, in CHUTES_API_TOKEN or
CHUTES_API_TOKEN_FILE. (In `--runtime-env-json` everybody could read it, so it is refused there.)
The same command again goes on with the same folder; `chutes-opencode batch status`, `report` and
`export` read it.
"""

from __future__ import annotations

import argparse
import sys

from chutes_opencode import ChutesOpenCodeLLM, OpenCodeError, ray_batch


def main() -> int:
    """Run the batch on all nodes of the cluster; return 0 when every item was answered."""
    parser = argparse.ArgumentParser(description="Run a batch on this Ray cluster.")
    parser.add_argument("items", help="JSONL, CSV, TSV or Parquet file with a prompt in each row")
    parser.add_argument("folder", help="of the results: on storage that all nodes share, or a URL")
    parser.add_argument("--model", help="none: the setting default_model")
    given = parser.parse_args()

    with ChutesOpenCodeLLM(given.model, builtin_tools=False) as llm:
        summary = ray_batch(given.items, llm, given.folder, address="auto")
    cost = "unknown cost" if summary.cost_usd is None else f"{summary.cost_usd:.6f} USD"
    print(
        f"{summary.done + summary.skipped} of {summary.total} items are answered, "
        f"{summary.failed} failed: {summary.usage.total} tokens, {cost}, in {given.folder}"
    )
    return 0 if summary.ok else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OpenCodeError as error:
        sys.exit(f"{type(error).__name__}: {error.raw_message}\n{error.hint}")
