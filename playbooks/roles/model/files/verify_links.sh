# shellcheck shell=sh
# A container gets the folder that has the model's files, and the installation: a link from there into another folder leads nowhere in it.
set -eu

here=$(readlink -f "$FIRSTLIGHT_ON_HOST")
prefix=$(readlink -f "$FIRSTLIGHT_PREFIX")
find "$FIRSTLIGHT_MODEL" -type l | while IFS= read -r link; do
    file=$(readlink -f "$link")
    case $file in "$here"/* | "$prefix"/*) continue ;; esac
    echo "firstlight-error: $(readlink "$link") leads to $file, which is outside of $FIRSTLIGHT_ON_HOST, and a container gets that folder alone"
    echo "firstlight-hint: name a folder that has the files themselves in firstlight_model_on_host, or leave it out: then they are sent"
    exit 1
done
