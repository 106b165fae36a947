# shellcheck shell=sh
# Tries the Python of an environment, torch and a compiler in an image, which must have no compatibility libraries of CUDA:
# NVIDIA's toolkit puts those of an image before the driver's.
set -eu

said=$(podman run --rm --pull=never --network=none --read-only --cap-drop=all --security-opt=label=disable --entrypoint= \
    --volume="$FIRSTLIGHT_PREFIX:$FIRSTLIGHT_PREFIX:ro" "$FIRSTLIGHT_IMAGE" \
    sh -c '! ls /usr/local/cuda*/compat/libcuda.so.* 2>/dev/null || { echo "it has compatibility libraries of CUDA"; exit 1; }
        type c++ >/dev/null && "$1" -I -B -c "import torch, ctypes.util"' sh "$FIRSTLIGHT_PYTHON" 2>&1) && exit 0
echo "firstlight-error: the environment does not run in image $(echo "$FIRSTLIGHT_IMAGE" | cut -c1-12): $(echo "$said" | tail -n 1)"
echo "firstlight-hint: build it with what the environment needs of a system (docs/guides/containers.md), or set firstlight_runtime to venv"
exit 1
