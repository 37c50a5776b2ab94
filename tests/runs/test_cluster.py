"""The same answer: threads here or processes of a cluster write the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")

JOB = Path(__file__).with_name("job.py")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_on_a_cluster_writes_the_same_bytes(make_archive, tmp_path, tree, job_environment):
    items = tmp_path / "items.json"
    features = make_archive(3, shape=(600, 700))
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    for task, out in (("run", "threads"), ("cluster", "cluster")):
        more = [str(tmp_path / "log")] if task == "run" else []
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(JOB), task, str(items), str(tmp_path / out), *more],
            env=job_environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"scenes": ["s0", "s1", "s2"], "workers": 2}
    assert tree(tmp_path / "threads") == tree(tmp_path / "cluster")
