"""The GKE launcher: what it renders is valid and says what it should; what it asks of kubectl."""

import os
import pathlib
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = os.path.realpath(sys.executable)
KUBERNETES = "1.33"
RUN = ("--name=x", "--image=registry/ssl_jax", "--accelerator=v5e:4x8", "--allow_uncommitted",
       "--config=configs/simclr.py:imagenet", "--workdir=gs://bucket/runs/x")  # fmt: skip


def gke(action, *options, code=0, path=None):
    environment = {**os.environ, **({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})}
    done = subprocess.run(
        [PYTHON, "-S", "launch/gke.py", action, *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rendered(*options):
    return yaml.safe_load(gke("render", *RUN, *options))


def check(jobset):
    """That the cluster would take it: Jobs by Kubernetes' own schema, JobSet's fields by hand."""
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["metadata"]) == {"name", "namespace", "annotations"}
    assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
    policy = jobset["spec"]["failurePolicy"]
    assert set(policy) == {"maxRestarts", "rules"}
    for rule in policy["rules"]:
        assert set(rule) == {"name", "action", "onJobFailureReasons"}
        assert rule["action"] in (
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
        )
        assert set(rule["onJobFailureReasons"]) <= {
            "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded",
            "PodFailurePolicy",
        }  # fmt: skip
    (job,) = jobset["spec"]["replicatedJobs"]
    assert set(job) == {"name", "replicas", "template"}
    assert isinstance(job["replicas"], int)
    resource = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{jobset['metadata']['name']}-{job['name']}-0"},
        **job["template"],
    }
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    return job["replicas"], job["template"]["spec"]


def pod_of(spec):
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def test_a_slice_of_several_hosts():
    jobset = rendered("--spot", "--grace_seconds=120", "--", "--config.note=a: 'b' $(c) null")
    replicas, spec = check(jobset)
    pod, container = pod_of(spec)
    assert (replicas, spec["completions"], spec["parallelism"]) == (1, 8, 8)
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert {one["key"] for one in pod["tolerations"]} == {
        "google.com/tpu", "cloud.google.com/gke-spot",
    }  # fmt: skip
    assert pod["terminationGracePeriodSeconds"] == 120
    assert container["args"] == [
        "train",
        "--config=configs/simclr.py:imagenet",
        "--workdir=gs://bucket/runs/x",
        "--config.note=a: 'b' $$(c) null",  # Kubernetes makes $( of $$(
    ]
    sha = jobset["metadata"]["annotations"]["ssl-jax/commit"]
    assert container["image"] == f"registry/ssl_jax:{sha[:12]}"
    assert "hostNetwork" not in pod and "serviceAccountName" not in pod


def test_several_hosts_start_again_together():
    jobset = rendered("--max_restarts=7")
    _, spec = check(jobset)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    # The only way to this reason is through the rules of the pods: taken away, or told to stop.
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    taken, saved = spec["podFailurePolicy"]["rules"]
    assert taken["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert saved["onExitCodes"]["values"] == [143]
    assert taken["action"] == saved["action"] == "FailJob"
    assert spec["backoffLimit"] == 0
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert jobset["metadata"]["annotations"][exclusive] == "cloud.google.com/gke-nodepool"


def test_one_host_starts_again_by_itself_but_not_after_an_error():
    jobset = rendered("--accelerator=v6e:2x4", "--max_restarts=7", "--service_account=trainer")
    _, spec = check(jobset)
    pod, container = pod_of(spec)
    assert (spec["completions"], container["resources"]["limits"]) == (1, {"google.com/tpu": 8})
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert pod["serviceAccountName"] == "trainer"
    actions = {
        str(rule.get("onExitCodes", {}).get("values", "taken")): rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
    }
    assert actions == {"taken": "Ignore", "[143]": "Ignore", "[1, 2]": "FailJob"}
    assert spec["backoffLimit"] == 7
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 0
    assert set(jobset["metadata"]["annotations"]) == {"ssl-jax/commit"}


def test_slices_that_train_together():
    replicas, spec = check(rendered("--slices=4"))
    pod, _ = pod_of(spec)
    assert (replicas, spec["completions"]) == (4, 8)
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_mounted_buckets():
    _, spec = check(rendered("--mount=data:/data", "--mount=more:/more"))
    pod, container = pod_of(spec)
    assert spec["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert [one["csi"]["volumeAttributes"]["bucketName"] for one in pod["volumes"]] == [
        "data", "more",
    ]  # fmt: skip
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/data", "/more"]
    assert {one["name"] for one in pod["volumes"]} == {
        one["name"] for one in container["volumeMounts"]
    }


def test_a_sweep_runs_a_cell_a_pod():
    config = "--config=configs/sweeps/methods.py:digits"
    options = ("--accelerator=v5e:2x4", config, "--sweep_cells=12", "--parallel=4")
    jobset = rendered(*options, "--max_restarts=3")
    _, spec = check(jobset)
    _, container = pod_of(spec)
    assert (spec["completions"], spec["parallelism"]) == (12, 4)
    assert container["args"][0] == "sweep"
    assert "--cell=$(JOB_COMPLETION_INDEX)" in container["args"]
    assert spec["backoffLimitPerIndex"] == 3 and "backoffLimit" not in spec
    assert check(rendered(*options[:-1]))[1]["parallelism"] == 1
    assert spec["podFailurePolicy"]["rules"][-1]["action"] == "FailIndex"  # the others go on


def test_nothing_of_the_template_is_left(tmp_path):
    text = gke("render", *RUN)
    assert ": $" not in text and ": null" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workdir=runs/x",), "the disk of a pod is deleted with it; use gs://BUCKET/PATH"),
        (("--workdir=gs://",), "--workdir=gs:// is not a path in a bucket; use gs://BUCKET/PATH"),
        (("--workdir=gs://bucket/",), "--workdir=gs://bucket/ is not a path in a bucket"),
        (("--accelerator=v5e:4x7",), "Did you mean 'v5e:4x8'?"),
        (("--accelerator=v2-8",), "GKE does not offer v2"),
        (("--name=X",), "--name=X is not allowed: at most 40"),
        (("--accelerator=v5e:2x4", "--slices=2"), "has one host"),
        (("--sweep_cells=3",), "use v5e:1x1 (v5litepod-1) or v5e:2x2 (v5litepod-4) or v5e:2x4"),
        (("--slices=0",), "--slices=0 is not allowed: at least 1"),
        (
            ("--accelerator=v5e:2x4", "--max_restarts=-4"),
            "--max_restarts=-4 is not allowed: at least 0",
        ),
        (("--grace_seconds=0",), "--grace_seconds=0 is not allowed: at least 1"),
        (("--parallel=4",), "--parallel=4 needs --sweep_cells, the number of cells"),
        (("--mount=bucket",), "--mount=bucket is not of the form BUCKET:/PATH"),
        (("--config=configs/no.py",), "configs/no.py does not exist"),
        (("--config=configs/simclr.py:imgenet",), "Did you mean 'imagenet'?"),
    ],
)
def test_bad_command_lines(options, message):
    out = gke("render", *RUN, *options, code=1)
    assert out.startswith("error: ") and out.count("\n") == 1
    assert message in out


@pytest.fixture
def recorder(tmp_path):
    """A folder with a `kubectl` and a `docker` that write down what they are asked and given."""
    for name in ("kubectl", "docker"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\ncat >{tmp_path}/stdin-{name}-$1\n'
            f'[ ! -e {tmp_path}/error ] || {{ cat {tmp_path}/error >&2; exit 1; }}\n'
        )  # fmt: skip
        program.chmod(0o755)
    return tmp_path


def test_what_kubectl_is_asked(recorder):
    manifest = gke("render", *RUN, "--namespace=n")
    where = ("--name=x", "--namespace=n", "--context=c")
    gke("apply", *RUN, *where, path=recorder)
    assert (recorder / "stdin-kubectl-apply").read_text() == manifest
    gke("status", *where, path=recorder)
    gke("logs", *where, "--worker=3", "--lines=5", "--follow", path=recorder)
    gke("logs", *where, "--worker=all", path=recorder)
    gke("delete", *where, path=recorder)
    label = "jobset.sigs.k8s.io/jobset-name=x"
    pod = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=3"
    expected = [
        "apply --filename=-",
        "get jobset x",
        f"get pods --selector={label} --output=wide",
        f"logs --container=train --selector={label},{pod} --tail=5 --follow",
        f"logs --container=train --selector={label} --prefix --max-log-requests=1000 --tail=100",
        "delete jobset x --ignore-not-found",
    ]
    calls = (recorder / "calls").read_text().splitlines()
    assert calls == [f"kubectl {call} --namespace=n --context=c" for call in expected]


def test_a_dry_run_prints_what_a_real_one_does(recorder):
    options = (*RUN, "--", "--config.seed=1")
    text = gke("apply", *RUN, "--dry_run", "--", "--config.seed=1", path=recorder)
    assert not (recorder / "calls").exists()
    gke("apply", *options, path=recorder)
    command = (recorder / "calls").read_text().strip()
    given = (recorder / "stdin-kubectl-apply").read_text()
    assert text == f"{command} <<'END'\n{given}END\n"


def test_a_dry_run_only_notes_what_is_not_committed():
    options = [option for option in RUN if option != "--allow_uncommitted"]
    text = gke("apply", *RUN, "--dry_run")
    note = gke("apply", *options, "--dry_run").removeprefix(text)  # it may be that all is committed
    assert note == "" or note.startswith("note: without --dry_run this is refused: uncommitted ch")


def test_the_image_is_a_commits(recorder):
    options = ("--image=registry/ssl_jax", "--allow_uncommitted")
    text = gke("image", *options, "--dry_run", path=recorder)
    gke("image", *options, path=recorder)
    sha = subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    build, push = (recorder / "calls").read_text().splitlines()
    tag = f"registry/ssl_jax:{sha[:12]}"
    assert (
        build == f"docker build --file=launch/Dockerfile --build-arg=ACCELERATOR=tpu --tag={tag} -"
    )
    assert push == f"docker push {tag}"
    assert text == f"git archive --format=tar.gz {sha} | {build}\n{push}\n"
    assert (recorder / "stdin-docker-build").read_bytes()[:2] == b"\x1f\x8b"
    text = gke("image", "--image=a/b:tag", "--allow_uncommitted", "--dry_run")
    assert text.endswith("docker push a/b:tag\n")


def test_what_kubectl_refuses_is_one_line(recorder):
    error = recorder / "error"
    error.write_text('The JobSet "x" is invalid: spec.replicatedJobs: field is immutable\n')
    out = gke("apply", *RUN, path=recorder, code=1)
    assert out == "error: JobSet x exists already; delete it, or choose another --name\n"
    error.write_text('warning\nerror: no matches for kind "JobSet"\n')
    out = gke("apply", *RUN, path=recorder, code=1)
    assert out == 'error: no matches for kind "JobSet"; install JobSet in the cluster\n'
