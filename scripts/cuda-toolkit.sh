#!/usr/bin/env bash
# Gets a machine ready for `cargo build --release --features cuda`:
#
#     scripts/cuda-toolkit.sh && cargo build --release --features cuda
#
# Where CUDA's compiler is installed, it is used. Where not, the compiler is fetched from PyPI into a folder of the user's cache
# (about 500 MB, no root, no driver, no card needed). Where the driver's or cuBLAS's library is missing too, an empty stand-in
# satisfies the linker; the program looks for the real ones when it starts to use a card.
#
# What was found is written to .cargo/config.toml of this checkout, which git ignores, so that cargo finds it without exported
# variables. A variable that is exported all the same wins. Running the script again changes nothing.
#
#     scripts/cuda-toolkit.sh --fetch       fetch a compiler even where one is installed
#     scripts/cuda-toolkit.sh --libraries   fetch cuBLAS too (about 800 MB), for a machine with a card and a driver but no CUDA
#     scripts/cuda-toolkit.sh --print       print the variables as shell exports and write no .cargo/config.toml
#
# CLIPSIFT_CUDA_TOOLKIT names another folder than ${XDG_CACHE_HOME:-$HOME/.cache}/clipsift/cuda-toolkit; PYTHON another python3.
set -euo pipefail
cd "$(dirname "$0")/.."

# The versions that this was tried with. 13.0 needs a driver of 580 or later to run what it compiles.
wheels=(
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88
)
cublas=nvidia-cublas==13.0.2.14

fetch=no libraries=no print=no
for argument in "$@"; do
    case $argument in
        --fetch) fetch=yes ;;
        --libraries) libraries=yes ;;
        --print) print=yes ;;
        *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
    esac
done

say() { echo "cuda-toolkit: $*" >&2; }
fail() { say "$*"; exit 1; }

cache=${CLIPSIFT_CUDA_TOOLKIT:-${XDG_CACHE_HOME:-${HOME:?set HOME or CLIPSIFT_CUDA_TOOLKIT}/.cache}/clipsift/cuda-toolkit}
mkdir -p "$cache" || fail "cannot make $cache; name another folder in CLIPSIFT_CUDA_TOOLKIT"
cache=$(cd "$cache" && pwd)

# ---- The compiler

# The installed one, where candle's build looks for it.
installed() {
    local nvcc
    for nvcc in "${NVCC:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/nowhere}/bin/nvcc" "${CUDA_PATH:-/nowhere}/bin/nvcc" \
        /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc /usr/lib/cuda/bin/nvcc; do
        if [ -n "$nvcc" ] && [ -x "$nvcc" ] && [[ $(readlink -f "$nvcc") != "$cache"/* ]]; then
            readlink -f "$nvcc"
            return
        fi
    done
}

# 13.0 -> 13000, as cudarc wants it.
release() { "$1" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\10\20/p'; }

fetch_wheels() {
    local python=${PYTHON:-python3} venv=$cache/venv
    command -v "$python" >/dev/null || fail "python3 is needed to fetch the compiler from PyPI; or install CUDA 13"
    if [ ! -x "$venv/bin/pip" ]; then
        rm -rf "$venv"
        "$python" -m venv "$venv" || fail "python3 cannot make a virtual environment (on Debian: apt install python3-venv)"
    fi
    say "fetching ${*%%==*} from PyPI"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 || fail "PyPI did not give the wheels"
}

nvcc=
if [ $fetch = no ]; then
    nvcc=$(installed)
fi
if [ -n "$nvcc" ]; then
    home=$(dirname "$(dirname "$nvcc")")
    number=$(release "$nvcc")
    [ "${number:-0}" -ge 12000 ] || fail "$nvcc is too old; CUDA 12 or later is needed (13.0 was tried), or --fetch"
    say "using the installed compiler $nvcc"
else
    home=$(echo "$cache"/venv/lib/python3*/site-packages/nvidia/cu13)
    stamp=$cache/wheels.txt
    if [ "$(cat "$stamp" 2>/dev/null)" != "${wheels[*]}" ] || [ ! -x "$home/bin/nvcc" ]; then
        fetch_wheels "${wheels[@]}"
        home=$(echo "$cache"/venv/lib/python3*/site-packages/nvidia/cu13)
        echo "${wheels[*]}" >"$stamp"
    fi
    nvcc=$home/bin/nvcc
    "$nvcc" --version >/dev/null || fail "$nvcc does not run on this machine"
    number=$(release "$nvcc")
    # What the builds look for and the wheels do not have.
    [ -e "$home/lib64" ] || ln -s lib "$home/lib64"
    for library in "$home"/lib/*.so.*; do
        [[ $library = *.alt.* ]] || [ -e "${library%%.so.*}.so" ] || ln -s "$(basename "$library")" "${library%%.so.*}.so"
    done
    say "using $nvcc"
fi
if [ $libraries = yes ]; then
    fetch_wheels "$cublas"
    say "cuBLAS is in $(echo "$cache"/venv/lib/python3*/site-packages/nvidia/cu13/lib); name that folder in" \
        "CLIPSIFT_CUDA_LIBRARIES where the program does not find it"
fi

# ---- Stand-ins for the linker

stubs=$cache/stubs
functions() {
    # The names stand in one file, a library after the other.
    sed -n "/define! { \"$1\"/,/\] }/p" src/ops/cuda/enabled/driver.rs | grep -oE '\b(cu|cublas|curand|nvrtc)[A-Z][A-Za-z0-9_]*' || true
}
stand_in() { # SONAME
    local name=${1%%.so.*}.so source
    for dir in "$home/lib64" "$home/lib" "$home/lib64/stubs" "$home/targets/x86_64-linux/lib" "$home/targets/x86_64-linux/lib/stubs" \
        /usr/lib/x86_64-linux-gnu /usr/lib64; do
        if [ -e "$dir/$name" ]; then
            return
        fi
    done
    source=$(functions "$1" | sed 's/.*/void &(void) {}/')
    if [ "$(cat "$stubs/$name.c" 2>/dev/null)" != "$source" ] || [ ! -e "$stubs/$name" ]; then
        mkdir -p "$stubs"
        echo "$source" >"$stubs/$name.c"
        "${CC:-cc}" -shared -fPIC -Wl,-soname,"$1" -o "$stubs/$name" "$stubs/$name.c" || fail "a C compiler is needed"
    fi
}
for soname in libcuda.so.1 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvrtc.so.13 libcudart.so.13; do
    stand_in "$soname"
done

# ---- Telling cargo

variables=(NVCC="$nvcc" CUDA_HOME="$home" CUDARC_CUDA_VERSION="$number")
if [ -d "$stubs" ]; then
    variables+=(LIBRARY_PATH="$stubs${LIBRARY_PATH:+:$LIBRARY_PATH}")
fi
if [ -z "${CUDA_COMPUTE_CAP:-}" ] && ! nvidia-smi --query-gpu=compute_cap --format=csv,noheader >/dev/null 2>&1; then
    # No card to ask: what runs on every card since Ampere.
    variables+=(CUDA_COMPUTE_CAP=80)
fi

if [ $print = yes ]; then
    printf 'export %q\n' "${variables[@]}"
    exit
fi
config=.cargo/config.toml
mark='# Written by scripts/cuda-toolkit.sh; remove it to forget the toolkit.'
if [ -e "$config" ] && [ "$(head -n 1 "$config")" != "$mark" ]; then
    say "$config is not this script's and stays as it is; build with: eval \"\$(scripts/cuda-toolkit.sh --print)\""
    exit 1
fi
mkdir -p .cargo
{
    echo "$mark"
    echo "[env]"
    for variable in "${variables[@]}"; do
        value=${variable#*=}
        value=${value//\\/\\\\}
        echo "${variable%%=*} = \"${value//\"/\\\"}\""
    done
} >"$config.new"
# The time stamp stays where nothing has changed.
if cmp -s "$config.new" "$config"; then rm "$config.new"; else mv "$config.new" "$config"; fi
say "ready: cargo build --release --features cuda"
