# Reads the facts of a host. Runs after frame.sh on the standard input of `sh -s`, changes nothing on the host, and
# needs neither Python nor root. Parameters in addition to the frame's:
#   FL_PYTHON    interpreter to report in addition to those found; may be empty
#   FL_GROUPS    groups of sections to run; empty: all of them, without those that only FL_MORE names
#   FL_MORE      groups of sections to run besides
#   FL_SYSCTL    files below /proc/sys to report, separated by blanks

# shellcheck shell=sh
# shellcheck disable=SC2154 # `status` is set by `limit` of the frame

# ---- the system -----------------------------------------------------------------------------------------------

os_release() {
    if [ -r /etc/os-release ]; then show /etc/os-release; else show /usr/lib/os-release; fi
}

libc() {
    for loader in /lib/ld-musl-*.so.1; do
        if [ -e "$loader" ]; then
            # The loader prints its version when it runs without a program, and exits with 1.
            "$loader" 2>&1
            return 0
        fi
    done
    getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1
}

# who_am_i: set FL_USER and FL_GROUP_NAMES.
who_am_i() {
    # root may do everything, whatever its groups. LOGNAME is no answer: `su` keeps that of the user before.
    [ "$FL_UID" != 0 ] || { FL_USER=root FL_GROUP_NAMES=' root' && return; }
    # id exits with 1 where a group has no name: its answer counts.
    limit id >"${FL_FILES}id" 2>/dev/null
    first_line "${FL_FILES}id"
    FL_USER='' FL_GROUP_NAMES=''
    rest=${line#uid=}
    case $rest in "$FL_UID("*) FL_USER=${rest#*\(} FL_USER=${FL_USER%%\)*} ;; esac
    rest=${line#* groups=}
    rest=${rest%% context=*},
    while [ -n "$line" ] && [ -n "$rest" ]; do
        name=${rest%%,*}
        rest=${rest#*,}
        name=${name#*\(}
        FL_GROUP_NAMES="$FL_GROUP_NAMES ${name%\)}"
    done
}

system() {
    who_am_i
    say uname "$FL_UNAME"
    say_file hostname /proc/sys/kernel/hostname
    say_file boot_id /proc/sys/kernel/random/boot_id
    say_file init /proc/1/comm
    for manager in apt-get dnf zypper apk; do
        has "$manager" && say package_manager "$manager" && break
    done
    say uid "$FL_UID"
    say user "$FL_USER"
    say home "$FL_HOME"
    say groups "${FL_GROUP_NAMES# }"
    say prefix "$FL_PREFIX"
    if [ -e "/var/lib/systemd/linger/$FL_USER" ]; then say lingering yes; else say lingering no; fi
    [ -d /run/systemd/system ] && say systemd yes
    return 0
}

sudo_rights() {
    if [ "$FL_UID" = 0 ]; then
        say passwordless yes
    elif ! has sudo; then
        say passwordless no
    elif limit sudo -n true; then
        say passwordless yes
    else
        if [ "$status" -eq 124 ]; then
            # sudo looks up its host name; if neither file nor name server has it, each call waits for a timeout.
            grep -Fqsw "$(uname -n)" /etc/hosts || printf 'no answer from sudo within %s s; this host does not know its own name: add a line "127.0.1.1 %s" to its /etc/hosts\n' "$FL_LIMIT_S" "$(uname -n)" >&2
            return 124
        fi
        say passwordless no
    fi
    return 0
}

systemd_state() {
    [ -d /run/systemd/system ] || absent 'systemd does not run here' || return
    # Each state but `running` comes with status 1.
    limit systemctl is-system-running
    [ "$status" -ne 124 ] || return 124
}

isolation() {
    say_file systemd_container /run/systemd/container
    say container_variable "${container:-}"
    [ -e /.dockerenv ] && say file /.dockerenv
    [ -e /run/.containerenv ] && say file /run/.containerenv
    [ -d /var/run/secrets/kubernetes.io ] && say file /var/run/secrets/kubernetes.io
    [ -n "${KUBERNETES_SERVICE_HOST:-}" ] && say kubernetes yes
    say_file sys_vendor /sys/class/dmi/id/sys_vendor
    say_file product_name /sys/class/dmi/id/product_name
    say_file hypervisor /sys/hypervisor/type
    say_file xen_rights /proc/xen/capabilities
    say_file clocks /sys/devices/system/clocksource/clocksource0/available_clocksource
    say_file kernel_version /proc/version
    [ -e /proc/sys/fs/binfmt_misc/WSLInterop ] && say file /proc/sys/fs/binfmt_misc/WSLInterop
    while IFS= read -r line; do say cgroup "$line"; done 2>/dev/null </proc/1/cgroup
    return 0
}

secure_boot() {
    variable=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
    if [ -r "$variable" ]; then
        # The variable has four bytes of attributes before its value.
        say efivar "$(od -An -tu1 "$variable")"
    elif [ -d /sys/firmware/efi ]; then
        say firmware efi
    elif [ -d /sys/firmware ]; then
        say firmware other
    fi
    return 0
}

# ---- processor and memory -------------------------------------------------------------------------------------

cpu() {
    while IFS= read -r line && [ -n "$line" ]; do printf '%s\n' "$line"; done </proc/cpuinfo
    say_file online /sys/devices/system/cpu/online
    of_files /sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id
    for node in /sys/devices/system/node/node[0-9]*; do
        [ -d "$node" ] && say node "$node"
    done
    return 0
}

memory() {
    while IFS= read -r line; do
        case $line in
        MemTotal:*) printf '%s\n' "$line" ;;
        MemAvailable:*) printf '%s\n' "$line" && break ;;
        SwapTotal:*) break ;;
        esac
    done </proc/meminfo
}

# Limits of this process's control group and all its parents, in both hierarchies.
cgroup_memory() {
    set --
    while IFS=: read -r number controllers path; do
        case ,$controllers, in
        ,,) root=/sys/fs/cgroup file=memory.max ;;
        *,memory,*) root=/sys/fs/cgroup/memory file=memory.limit_in_bytes ;;
        *) continue ;;
        esac
        # With both hierarchies in use, version 2 is mounted at `unified`.
        [ "$number" = 0 ] && [ -d /sys/fs/cgroup/unified ] && root=/sys/fs/cgroup/unified
        while [ -n "$path" ] && [ "$path" != / ]; do
            set -- "$@" "$root$path/$file"
            path=${path%/*}
        done
        set -- "$@" "$root/$file"
    done </proc/self/cgroup
    [ $# -eq 0 ] && absent 'no memory control group' && return
    of_files "$@"
}

# nearest PATH: set `nearest` to PATH or its closest existing parent folder.
nearest() {
    nearest=$1
    while [ ! -e "$nearest" ] && [ "$nearest" != / ] && [ -n "$nearest" ]; do
        nearest=${nearest%/*}
    done
    nearest=${nearest:-/}
}

# All disks at once; where one of them gives no answer within a quarter of the time, each by itself.
disks() {
    set --
    names=''
    while IFS= read -r path; do
        [ -n "$path" ] || continue
        nearest "$path"
        set -- "$@" "$nearest"
        names="$names$path
"
    done <<LIST
/
$FL_PREFIX
$FL_HOME
/var/tmp
/dev/shm
LIST
    allowed_s=$FL_LIMIT_S
    FL_LIMIT_S=$(((FL_LIMIT_S + 3) / 4))
    limit df -Pk "$@" >"${FL_FILES}df" 2>/dev/null
    FL_LIMIT_S=$allowed_s
    if [ "$status" -eq 0 ]; then
        {
            read -r _
            while IFS= read -r path <&3 && [ -n "$path" ]; do
                IFS= read -r line || line=''
                say path "$path"
                printf '%s\n' "$line"
            done
        } <"${FL_FILES}df" 3<<LIST
$names
LIST
        return 0
    fi
    worst=0
    while IFS= read -r path && [ -n "$path" ]; do
        say path "$path"
        limit df -Pk "$1" || worst=$status
        shift
    done <<LIST
$names
LIST
    return "$worst"
}

# The login user's folder for incoming files, as provision/fleet/ssh/list.sh lists it.
incoming() {
    cd "/var/tmp/firstlight-$FL_UID${FL_SERVICE:+@$FL_SERVICE}" 2>/dev/null || return 0
    [ ! -f .arrived ] || sed 's/^/A /' .arrived
    limit find . -type f ! -name .arrived -exec stat -c 'F %s %Y %n' {} +
    cd /
    return "$status"
}

# ---- software for the installation ----------------------------------------------------------------------------

# python_facts PATH [NAME]: print version, headers, venv and torch of an interpreter, once each; NAME replaces its path.
python_facts() {
    called=${2:-}
    interpreter=$(readlink -f "$1") && [ -e "$interpreter" ] || return 0
    case $seen in *"|$interpreter|"*) return 0 ;; esac
    # A virtual environment has the same program as its base interpreter, which may still follow.
    environment=${1%/bin/*}
    if [ -n "$called" ] && [ -f "$environment/pyvenv.cfg" ]; then
        grep -Eiq '^include-system-site-packages *= *true' "$environment/pyvenv.cfg" && shared=yes || shared=no
    else
        environment='' shared=yes
        seen="$seen|$interpreter|"
    fi
    limit "$interpreter" -V >"${FL_FILES}version" 2>&1 || return 0
    first_line "${FL_FILES}version"
    number=${line#Python }
    minor=${number#*.*.}
    minor=${number%".$minor"}
    base=${interpreter%/bin/*}
    headers=no venv=no torch=''
    set --
    [ -z "$environment" ] || set -- "$environment/lib/python$minor/site-packages" "$environment/lib64/python$minor/site-packages"
    [ "$shared" = no ] || set -- "$@" "$base/lib/python$minor/site-packages" "$base/lib64/python$minor/site-packages" \
        "$base/lib/python$minor/dist-packages" "/usr/local/lib/python$minor/dist-packages" /usr/lib/python3/dist-packages
    for folder in "$base/include" /usr/include /usr/local/include; do
        [ -e "$folder/python$minor/Python.h" ] && headers=yes && break
    done
    for folder in "$base/lib" "$base/lib64"; do
        if [ -e "$folder/python$minor/venv/__init__.py" ] && [ -e "$folder/python$minor/ensurepip/__init__.py" ]; then
            venv=yes
        fi
    done
    for folder in "$@"; do
        [ -r "$folder/torch/version.py" ] || continue
        torch=$(sed -n "s/^__version__ *= *['\"]\([^'\"|]*\)['\"].*/\1/p" "$folder/torch/version.py" | head -n 1)
        break
    done
    printf 'python=%s|%s|%s|%s|%s\n' "${called:-$interpreter}" "$number" "$headers" "$venv" "$torch"
}

# python_on_path PATH: print the facts of an interpreter; of a version manager's shim set `shims` to the manager's folder.
python_on_path() {
    case $1 in
    */shims/*) shims=${1%/shims/*} ;;
    *) python_facts "$1" ;;
    esac
}

pythons() {
    seen='' shims='' names='python3 python3.10 python3.11 python3.12 python3.13 python3.14 python3.15'
    [ -n "$FL_PYTHON" ] && [ -x "$FL_PYTHON" ] && python_facts "$FL_PYTHON" "$FL_PYTHON"
    for name in $names; do
        if locate "$name"; then python_on_path "$path"; fi
    done
    for name in $names; do
        for path in "/usr/bin/$name" "/usr/local/bin/$name"; do
            [ -x "$path" ] && python_facts "$path"
        done
    done
    # A version manager's shims are slow scripts; the real interpreters are in the neighbouring folders.
    for path in "$shims"/versions/*/bin/python3.1[0-9] "$shims"/installs/python/*/bin/python3.1[0-9]; do
        [ -n "$shims" ] && [ -x "$path" ] && python_facts "$path"
    done
    return 0
}

# program NAME [VERSIONED]: print its path and, with a second argument, the output of `--version`.
program() {
    locate "$1" || return 1
    printf 'program=%s|%s|' "$1" "$path"
    [ -n "${2:-}" ] && limit "$path" --version 2>&1
    echo
}

programs() {
    for name in git curl tar xz ssh sudo ip ss flock ninja cmake supervisord loginctl; do program "$name"; done
    for name in gcc g++ clang nvcc hipcc nvidia-ctk podman; do program "$name" versioned; done
    # Usually other names of gcc and g++.
    if has gcc; then program cc; else program cc versioned; fi
    if has g++; then program c++; else program c++ versioned; fi
    return 0
}

libraries() {
    names='libnuma.so.1 libgomp.so.1 libstdc++.so.6 libcuda.so.1 libnvidia-ml.so.1 libnccl.so.2 libtcmalloc_minimal.so.4 libibverbs.so.1'
    for name in $names; do say wanted "$name"; done
    for name in $names; do
        for folder in "/lib/$FL_MACHINE-linux-gnu" "/usr/lib/$FL_MACHINE-linux-gnu" /lib64 /usr/lib64 /lib /usr/lib \
            /usr/local/lib /usr/lib/wsl/lib; do
            [ -e "$folder/$name" ] && say found "$folder/$name" && break
        done
    done
    # The loader's other folders, without those of other architectures; the parser takes a library's first path.
    for file in /etc/ld.so.conf /etc/ld.so.conf.d/*.conf; do
        [ -r "$file" ] || continue
        while read -r folder _ || [ -n "$folder" ]; do
            case $folder in
            *"/$FL_MACHINE-linux-gnu"*) ;;
            *-linux-gnu* | */lib32* | */libx32*) folder='' ;;
            esac
            for name in $names; do [ -n "$folder" ] && [ -e "$folder/$name" ] && say found "$folder/$name"; done
            folder=''
        done <"$file"
    done
    return 0
}

# ---- accelerators ---------------------------------------------------------------------------------------------

# bus_functions: set `shown_functions` to the folders of display (03), processing (12) and NVSwitch (0680) functions of the bus, and
# `placed_functions` to those of the first two and of network (0200) and InfiniBand cards (0207). Addresses contain no blanks.
bus_functions() {
    shown_functions='' placed_functions=''
    for folder in /sys/bus/pci/devices/*; do
        class=''
        [ -r "$folder/class" ] && IFS= read -r class <"$folder/class"
        case $class in 0x03* | 0x12* | 0x0680*) shown_functions="$shown_functions $folder" ;; esac
        case $class in 0x03* | 0x12* | 0x0200* | 0x0207*) placed_functions="$placed_functions $folder" ;; esac
    done
}

# Functions that need no driver to be seen.
pci() {
    [ -d /sys/bus/pci/devices ] || absent '/sys/bus/pci is not there' || return
    bus_functions
    [ -n "$shown_functions" ] || return 0
    for folder in $shown_functions; do of_files "$folder/vendor" "$folder/device" "$folder/class"; done
    for link in /sys/bus/pci/drivers/*/*:*:*.*; do
        [ -e "$link" ] && say driver "$link"
    done
    return 0
}

# Position of cards and network cards on the bus, and state of the IOMMU. The real path of a folder names its bridges.
topology() {
    [ -d /sys/bus/pci/devices ] || absent '/sys/bus/pci is not there' || return
    for folder in $placed_functions; do
        numa='' kind='' class='' group='' name=''
        IFS= read -r class <"$folder/class"
        [ -r "$folder/numa_node" ] && IFS= read -r numa <"$folder/numa_node"
        [ -r "$folder/iommu_group/type" ] && IFS= read -r kind <"$folder/iommu_group/type"
        [ -d "$folder/iommu_group" ] && cd -P "$folder/iommu_group" && group=${PWD##*/}
        for entry in "$folder"/infiniband/* "$folder"/net/*; do [ -e "$entry" ] && name=${entry##*/} && break; done
        cd -P "$folder" && printf 'device=%s|%s|%s|%s|%s|%s\n' "$PWD" "$class" "$numa" "$group" "$kind" "$name"
    done
    cd /
    for unit in /sys/class/iommu/*; do [ -e "$unit" ] && say iommu "${unit##*/}"; done
    return 0
}

modules() {
    [ -d /sys/module ] || absent '/sys/module is not there' || return
    for folder in /sys/module/nvidia* /sys/module/nouveau /sys/module/nova* /sys/module/amdgpu /sys/module/ib_umad; do
        [ -d "$folder" ] && say module "${folder##*/}"
    done
    say_file nvidia_version /sys/module/nvidia/version
    say_file amdgpu_version /sys/module/amdgpu/version
    [ -r /proc/driver/nvidia/version ] && say_file nvidia_proc /proc/driver/nvidia/version
    return 0
}

# Lists of supported clocks are nine tenths of the output and not needed.
nvidia_smi() {
    has nvidia-smi || absent 'nvidia-smi is not installed' || return
    limit nvidia-smi -q -x >"${FL_FILES}nvidia-smi.xml"
    answered=$status
    grep -Ev 'supported_(graphics|mem)_clock|clocks_(event|throttle)_reason' "${FL_FILES}nvidia-smi.xml"
    # The document does not name profiles and UUIDs of slices.
    ! grep -q '<mig_device>' "${FL_FILES}nvidia-smi.xml" || limit nvidia-smi -L
    say_file mig_layout /etc/firstlight-mig/layout
    return "$answered"
}

nvidia_compute() {
    has nvidia-smi || absent 'nvidia-smi is not installed' || return
    limit nvidia-smi --query-gpu=uuid,compute_cap --format=csv,noheader
}

nvidia_topology() {
    has nvidia-smi || absent 'nvidia-smi is not installed' || return
    limit nvidia-smi topo -m
}

fabric_manager() {
    has nv-fabricmanager || absent 'nv-fabricmanager is not installed' || return
    answer=$(limit nv-fabricmanager --version) || return
    say version "$answer"
    [ -d /run/systemd/system ] || return 0
    # Status 3 means "inactive", which is a valid answer.
    answer=$(limit systemctl is-active nvidia-fabricmanager.service) || [ $? -ne 124 ] || return 124
    say state "$answer"
}

cuda_toolkits() {
    for folder in /usr/local/cuda /usr/local/cuda-*; do
        [ -d "$folder" ] || continue
        say toolkit "$(readlink -f "$folder")"
        if [ -r "$folder/version.json" ]; then
            grep -A 3 '"cuda"' "$folder/version.json"
        elif [ -r "$folder/version.txt" ]; then
            cat "$folder/version.txt"
        elif [ -x "$folder/bin/nvcc" ]; then
            limit "$folder/bin/nvcc" --version 2>&1
        fi
        # FlashInfer compiles with these when the engine starts. For the last one the linker takes the driver's own if that has a link.
        for needed in bin/nvcc include/curand_kernel.h lib64/libcudart.so lib64/stubs/libcuda.so; do
            case $needed in
                */libcuda.so) set -- /usr/lib/*-linux-gnu/libcuda.so /usr/lib64/libcuda.so /usr/lib/libcuda.so "$folder/$needed" ;;
                *) set -- "$folder/$needed" ;;
            esac
            found=''
            for file; do [ ! -e "$file" ] || found=yes; done
            [ -n "$found" ] || say lacks "$needed"
        done
        [ ! -e "$folder/compat/libcuda.so.1" ] || say compat "$folder/compat/libcuda.so.1"
    done
    return 0
}

# Facts of the amdgpu driver, which exist without ROCm.
kfd() {
    [ -d /sys/class/kfd ] || absent 'amdgpu offers no compute devices' || return
    grep -EHs '^(simd_count|gfx_target_version|location_id|domain|unique_id) ' /sys/class/kfd/kfd/topology/nodes/*/properties
    grep -EHs '^(heap_type|size_in_bytes) ' /sys/class/kfd/kfd/topology/nodes/*/mem_banks/*/properties
    return 0
}

rocm() {
    of_files /opt/rocm/.info/version /opt/rocm-*/.info/version
}

rocminfo_agents() {
    has rocminfo || absent 'rocminfo is not installed' || return
    limit rocminfo
}

# ---- ports and engines ------------------------------------------------------------------------------------------

ports() {
    has ss || absent 'ss is not installed' || return
    limit ss -Hltnp
}

# vLLM sets the titles of its processes to VLLM::...; the pattern cannot match the command line of this grep.
engines() {
    grep -aHs '^VLLM::' /proc/[0-9]*/cmdline >"${FL_FILES}engines"
    [ -s "${FL_FILES}engines" ] || return 0
    tr -s '\0' ' ' <"${FL_FILES}engines" >"${FL_FILES}titles"
    while IFS= read -r title; do
        printf '%s\n' "$title"
        file=${title%%/cmdline:*}/status
        while IFS= read -r line; do
            case $line in
            Name:* | State:* | PPid:*) printf '%s:%s\n' "$file" "$line" ;;
            Uid:*) printf '%s:%s\n' "$file" "$line" && break ;;
            esac
        done 2>/dev/null <"$file"
    done <"${FL_FILES}titles"
    while IFS=: read -r name _ number _; do printf '%s:%s\n' "$name" "$number"; done </etc/passwd
    return 0
}

# ---- installation of this product -----------------------------------------------------------------------------

# product_files NAME...: print files under the prefix, each between two marker lines, or report that one is unreadable.
product_files() {
    mark=0
    for name in "$@"; do
        shift
        folder=$FL_PREFIX/$name
        folder=${folder%/*}
        if [ -r "$FL_PREFIX/$name" ]; then
            mark=$((mark + 1))
            printf '@@%s file %s\n' "$FL_NONCE" "$name" >"${FL_FILES}mark$mark"
            set -- "$@" "${FL_FILES}mark$mark" "$FL_PREFIX/$name" "${FL_FILES}mark"
        elif [ -e "$FL_PREFIX/$name" ] || { [ -d "$folder" ] && [ ! -x "$folder" ]; }; then
            say unreadable "$name"
        fi
    done
    printf '\n@@%s file\n' "$FL_NONCE" >"${FL_FILES}mark"
    # Without -q it prints names between the files.
    [ $# -eq 0 ] || head -q -c 4194304 "$@"
}

# release_of NAME: set `release` to what the link `current` or `previous` leads to, and `environment` to the environment that it stands for;
# both are empty where there is no link. The link leads to that of a release, and in installations of earlier versions to the environment itself.
release_of() {
    release='' environment=''
    [ -L "$FL_PREFIX/$1" ] || return 0
    readlink "$FL_PREFIX/$1" >"${FL_FILES}link"
    first_line "${FL_FILES}link"
    release=$line environment=$line
    if [ -L "$FL_PREFIX/$release" ]; then
        if cd -P "$FL_PREFIX/$release" 2>/dev/null; then environment=$PWD; else environment=$(readlink "$FL_PREFIX/$release"); fi
        cd /
    fi
}

# is_locked FILE: whether a process holds the lock of a file.
is_locked() {
    inode=''
    while IFS= read -r line; do
        case $line in *FLOCK*) ;; *) continue ;; esac
        [ -n "$inode" ] || inode=$(ls -i "$1")
        case $line in *":${inode%% *} "*) return 0 ;; esac
    done </proc/locks
    return 1
}

installed() {
    nearest "$FL_PREFIX"
    if [ -d "$nearest" ] && [ ! -x "$nearest" ]; then
        printf 'no permission to look into %s\n' "$nearest" >&2
        return 1
    fi
    [ -d "$FL_PREFIX" ] || return 0
    release_of previous
    [ -z "$release" ] || say previous "$environment"
    [ -z "$release" ] || say previous_release "$release"
    release_of current
    [ -z "$release" ] || say current "$environment"
    [ -z "$release" ] || say release "$release"
    for file in "$FL_PREFIX"/releases/*/release.json; do
        [ ! -e "$file" ] || say known_release "$file"
    done
    for folder in "$FL_PREFIX/envs" "$FL_PREFIX"/envs/*; do
        [ ! -d "$folder" ] || [ -x "$folder" ] || say unreadable "${folder#"$FL_PREFIX/"}"
        [ -e "$folder/.complete" ] && say environment "$folder/.complete"
    done
    quadlet=/etc/containers/systemd/${FL_UNIT%.service}.container
    if [ -r "$quadlet" ]; then
        image=$(sed -n 's/^Image=//p' "$quadlet")
        # Each user has images of their own, and the service has root's.
        if [ "$FL_UID" = 0 ]; then
            limit podman image exists "$image" 2>/dev/null && say image "$image"
        elif grep -qF "=$FL_PREFIX:" "$quadlet"; then
            say image_of_root yes
        fi
    fi
    # The kernel knows whether a run has locked the host; lock.json only names the run. Reading keeps the lock.
    holder=''
    if [ -e "$FL_PREFIX/lock" ] && [ -r /proc/locks ]; then
        if is_locked "$FL_PREFIX/lock"; then holder=lock.json; else say lock_left yes; fi
    fi
    set --
    for file in "$FL_PREFIX"/models/*/.complete; do
        [ -e "$file" ] && say model "$file" && set -- "$@" "${file#"$FL_PREFIX/"}"
    done
    # Without a name for the lock's, the word is no argument.
    # shellcheck disable=SC2086
    product_files $holder state.json verify/last.json verify/ready.json quarantine.json "$@"
    for unit in /etc/systemd/system/firstlight-firewall.service /etc/systemd/system/firstlight-firewall-start.service; do
        [ ! -e "$unit" ] || say firewall yes
    done
    return 0
}

# Compares the recorded installation with its present state: checksums of small files, modes and times of large or
# secret ones, and files that Python imports at each start. The parser compares the recorded unit with section
# `service`. Then what others gave or left, which a run names and leaves.
drift() {
    account='' user=''
    list=$FL_PREFIX/state.sha256
    if [ -e "$list" ] && [ ! -r "$list" ]; then
        printf 'no permission to read %s\n' "$list" >&2
        return 1
    fi
    [ -r "$list" ] || absent "$list is not there" || return
    set -- "$list"
    [ ! -r "$FL_PREFIX/state.secrets" ] || set -- "$@" "$FL_PREFIX/state.secrets"
    # sha256sum exits with 1 when a file differs: its lines are the answer. It names unreadable files on stderr.
    limit sha256sum -c "$@" 2>&1
    [ "$status" -eq 124 ] && return 124
    if [ -r "$FL_PREFIX/state.unit" ]; then
        printf '@@%s sealed unit\n' "$FL_NONCE"
        unit=$(cat "$FL_PREFIX/state.unit")
        printf '%s\n' "$unit"
        user=$(sed -n 's/^User=//p' "$FL_PREFIX/state.unit")
        [ -z "$user" ] || account=$(grep "^$user:" /etc/passwd)
    fi
    list=$FL_PREFIX/state.files
    [ -r "$list" ] || return 0
    printf '@@%s sealed files\n' "$FL_NONCE"
    set --
    while IFS= read -r line; do
        printf '%s\n' "$line"
        set -- "$@" "${line#* * * * * * }"
    done <"$list"
    printf '@@%s now\n' "$FL_NONCE"
    # stat exits with 1 when a file is missing: its lines are the answer.
    limit stat -c '%a %u %g %s %Y %Z %n' "$@" 2>&1
    [ "$status" -eq 124 ] && return 124
    for folder in "$FL_PREFIX/envs/${environment##*/}"/lib/python3*/site-packages; do
        # Two patterns, because each one reads the whole folder.
        for file in "$folder"/*.pth "$folder"/[su]*customize*; do
            case $file in
            *.pth | "$folder"/sitecustomize* | "$folder"/usercustomize*) [ ! -e "$file" ] || say imported "$file" ;;
            esac
        done
    done
    # Below the environments only what others may write to, or own: reading all modes and owners takes a moment, hashing all content minutes.
    read -r _ owner _ <"$list"
    limit find "$FL_PREFIX/envs" ! -type l \( -perm -0002 -o ! -user "$owner" \) -exec stat -c 'exposed=%a %u %g %n' {} + >"${FL_FILES}exposed"
    head -n 20 "${FL_FILES}exposed"
    [ -z "$account" ] || say account "$account"
    foreign
    return 0
}

# Lines that give the service's account rights, with their files; files that nobody recorded; files with the key that everybody may read. The
# key goes through a pipe, since other users see the arguments of commands. One `sed` for all, since each process takes a millisecond.
foreign() {
    cut -d ' ' -f 7- "$list" >"${FL_FILES}recorded"
    key=$(sed -n 's/^VLLM_API_KEY=//p' "$FL_PREFIX/etc/service.env" 2>/dev/null)
    key=${key#[\"\']} key=${key%[\"\']}
    {
        [ -z "$user" ] || grep -EHs "^[[:space:]]*%?${user}[[:space:]]|[:,]$user(,|\$)" /etc/sudoers /etc/sudoers.d/* /etc/group
        limit find "$FL_PREFIX/bin" "$FL_PREFIX/etc" "$FL_PREFIX/models" "$FL_PREFIX/releases" ! -type d 2>/dev/null |
            grep -vxF -f "${FL_FILES}recorded"
        [ -z "$key" ] || printf '%s\n' "$key" |
            limit find /etc /home/* /opt /srv /tmp /var/backups /var/tmp /var/www/html -maxdepth 1 -type f -perm -0004 -size -129 \
                -exec grep -lsF -f - {} + 2>/dev/null
    } | sed -n '1,200s/^/foreign=/p'
}

# unit_state [--user]: print the state of our unit in a systemd manager, and the properties that were recorded.
unit_state() {
    names=LoadState,ActiveState,MainPID,EnvironmentFiles
    IFS='
'
    set -f
    for line in $unit; do names=$names,${line%%=*}; done
    set +f
    unset IFS
    answer=$(limit systemctl "$@" show "--property=$names" "$FL_UNIT")
    ended=$?
    printf '%s\n' "$answer"
    pid=0
    IFS='
'
    set -f
    for line in $answer; do case $line in MainPID=*) pid=${line#MainPID=} ;; esac done
    set +f
    unset IFS
    main_stat "$pid"
    return "$ended"
}

# main_stat PID: print what /proc says of a process after its name; nothing where there is none.
main_stat() {
    if first_line "/proc/${1:-0}/stat"; then say MainStat "${line##*) }"; fi
}

# has_unit: whether systemd may know our unit: by a file, by the record of one, or since its processes run. It answers for any name, and slowly.
has_unit() {
    for place in /etc/systemd/system /run/systemd/system /run/systemd/generator /sys/fs/cgroup/system.slice /sys/fs/cgroup/systemd/system.slice; do
        [ -e "$place/$FL_UNIT" ] && return 0
    done
    [ -e "$FL_PREFIX/state.unit" ]
}

service() {
    if [ -d /run/systemd/system ] && { has_unit || [ "$FL_UID" != 0 ]; }; then
        say manager systemd
        unit_state
        if [ -S "/run/user/$FL_UID/systemd/private" ]; then
            say manager systemd-user
            XDG_RUNTIME_DIR=/run/user/$FL_UID
            export XDG_RUNTIME_DIR
            unit_state --user
        fi
    fi
    config=$FL_PREFIX/etc/supervisord.conf
    [ -r "$config" ] || return 0
    file=$(sed -n 's/^pidfile *= *//p' "$config")
    case $file in '%(here)s'*) file=$FL_PREFIX/etc${file#'%(here)s'} ;; esac
    say supervisord_config "$config"
    [ -r "$file" ] || return 0
    pid=''
    IFS= read -r pid <"$file"
    # Another process may have the PID by now.
    if grep -qs supervisord "/proc/$pid/cmdline"; then
        say supervisord_pid "$pid"
        say_file supervised "/proc/$pid/task/$pid/children"
        # The kernel ends the line with a blank and no newline, so `read` fails.
        child=''
        read -r child _ <"/proc/$pid/task/$pid/children"
        main_stat "$child"
    fi
    return 0
}

# ---- configuration: read only when hosts are compared -----------------------------------------------------------

packages() {
    # The fields are of dpkg-query and rpm, not of the shell.
    # shellcheck disable=SC2016
    if has dpkg-query; then
        limit dpkg-query -W -f 'package=${binary:Package}|${Version}|${db:Status-Abbrev}\n'
    elif has rpm; then
        limit rpm -qa --queryformat 'package=%{NAME}|%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}.%{ARCH}|ii\n'
    else
        absent 'neither dpkg-query nor rpm is there'
    fi
}

sysctl_values() {
    set --
    for name in $FL_SYSCTL; do set -- "$@" "/proc/sys/$name"; done
    # Not with the shell's `read`: it asks for one byte at a time, and the kernel answers only the first request for such a file.
    grep -Hs '' "$@"
    return 0
}

firmware() {
    folder=/sys/class/dmi/id
    [ -d "$folder" ] || absent "$folder is not there" || return
    for name in bios_vendor bios_version bios_date bios_release ec_firmware_release board_vendor board_name board_version \
        sys_vendor product_name product_version; do
        say_file "$name" "$folder/$name"
    done
    sed -n 's/^microcode[^:]*: */microcode=/p;/^$/q' /proc/cpuinfo
    return 0
}

kernel_settings() {
    say_file cmdline /proc/cmdline
    grep -Hs '' /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag \
        /sys/devices/system/cpu/smt/control /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor \
        /sys/devices/system/cpu/cpu0/cpufreq/scaling_driver /sys/devices/system/cpu/intel_pstate/no_turbo \
        /sys/devices/system/cpu/cpufreq/boost /sys/devices/system/clocksource/clocksource0/current_clocksource \
        /sys/module/pcie_aspm/parameters/policy /sys/devices/system/cpu/vulnerabilities/*
    return 0
}

driver_settings() {
    grep -Hs '' /proc/driver/nvidia/params /sys/module/nvidia*/parameters/* /sys/module/amdgpu/parameters/*
    return 0
}

enabled_units() {
    [ -d /run/systemd/system ] || absent 'systemd does not run here' || return
    limit systemctl list-unit-files --no-legend --no-pager --type=service,socket,timer --state=enabled,masked
}

# ---- groups of sections ---------------------------------------------------------------------------------------

group_files() {
    section pci pci
    section topology topology
    section modules modules
    section kfd kfd
    section rocm rocm
    section cuda_toolkits cuda_toolkits
    section cpu cpu
    section memory memory
    section cgroup_memory cgroup_memory
    section os_release os_release
    section libc libc
    section secure_boot secure_boot
    section isolation isolation
}

# What a slow directory service delays.
group_user() {
    section system system
    section sudo_rights sudo_rights
}

group_product() {
    unit=''
    section installed installed
    section drift drift
    section service service
}

group_software() {
    section incoming incoming
    section programs programs
    section libraries libraries
}

group_configuration() {
    section packages packages
    section sysctl_values sysctl_values
    section firmware firmware
    section kernel_settings kernel_settings
    section driver_settings driver_settings
    section enabled_units enabled_units
}

# What few decisions need, and what takes a host time.
group_in_full() {
    section systemd_state systemd_state
    section ports ports
}

# Each tool of a vendor may hang by itself; where there is none, their sections need no processes.
group_cards() {
    apart=''
    for tool in nvidia-smi rocminfo nv-fabricmanager; do has "$tool" && apart=yes; done
    for name in nvidia_smi nvidia_compute nvidia_topology rocminfo_agents fabric_manager; do
        if [ -n "$apart" ]; then
            run_group "$name" &
        else
            section "$name" "$name"
        fi
    done
    wait
}

main() {
    # `arch` came with Linux 6.1.
    if first_line /proc/sys/kernel/arch; then
        FL_MACHINE=$line
        first_line /proc/sys/kernel/osrelease
        FL_UNAME="Linux $line $FL_MACHINE"
    else
        FL_UNAME=$(uname -s -r -m)
        FL_MACHINE=${FL_UNAME##* }
    fi
    # Split the lists at blanks; names contain none.
    # shellcheck disable=SC2086
    read_host ${FL_GROUPS:-group_cards disks pythons group_user group_software engines group_product group_files} $FL_MORE
}

# The last line of the script: a script that was cut during transfer runs nothing.
main
