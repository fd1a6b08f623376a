# shellcheck shell=sh
# shellcheck disable=SC2154 # root: set by the caller
# shellcheck disable=SC2015 # "a && b || c" is meant as "unless both"
# Finds interpreters and makes virtual environments, for the scripts beside it.
#
# Sourced, with $root set to the checkout. POSIX sh plus mktemp and readlink,
# which busybox, the BSDs and macOS have too. Nothing here relies on "set -e",
# which is off wherever a caller tests the outcome.

die() {
    printf 'minisocks: %s\n' "$*" >&2
    exit 1
}

# probe COMMAND: set $version (as in 3.11) and $executable; fail if it does not
# run. The executable is what a pyenv shim ends up with, and that may depend on
# the working directory. -S: without site this costs 10 ms instead of 20.
probe() {
    probed=$("$1" -E -S -c '
import sys
sys.stdout.write("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.executable or ""))
' </dev/null 2>/dev/null) || return 1
    version=${probed%% *}
    executable=${probed#* }
    [ -n "$executable" ] || executable=$1
}

# choose_python: set $version and $executable from $PYTHON, default python3.
choose_python() {
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null 2>&1 ||
        die "$python not found; install Python 3.6 or newer, or name it: PYTHON=/path/to/python3"
    probe "$python" ||
        die "$python does not run; name another one: PYTHON=/path/to/python3"
    case $version in
        [012].* | 3.[0-5])
            die "needs Python 3.6 or newer, but $python is $version; name a newer one: PYTHON=/path/to/python3"
            ;;
    esac
}

# find_pythons: print "VERSION EXECUTABLE" for each minor version from 3.6 up,
# oldest first, from PATH, then from pyenv. The first that can make virtual
# environments wins; a pyenv shim of a version not selected does not run.
find_pythons() {
    set --
    saved_ifs=$IFS
    IFS=:
    set -f
    for folder in ${PATH:-}; do
        for minor in 6 7 8 9 10 11 12 13 14; do
            set -- "$@" "${folder:-.}/python3.$minor"
        done
        set -- "$@" "${folder:-.}/python3"
    done
    set +f
    IFS=$saved_ifs
    seen=' '
    for candidate in "$@" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin/python; do
        [ -x "$candidate" ] && probe "$candidate" || continue
        case $version in
            3.[6-9] | 3.[1-9][0-9]) ;;
            *) continue ;;
        esac
        case $seen in
            *" $version "*) continue ;;
        esac
        can_make_environments || continue
        seen="$seen$version "
        printf '%s %s\n' "$version" "$executable"
    done | sort -t . -k 2n
}

can_make_environments() {
    "$executable" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1
}

# requirements SECTION KEY: print the lines of one list in setup.cfg, so that
# versions are written down there only. awk: the start of a proxy must not wait
# for one more interpreter.
requirements() {
    awk -v section="[$1]" -v key="$2" '
        /^\[/ { inside = ($0 == section); wanted = 0; next }
        /^[^ \t]/ { wanted = (inside && $1 == key); next }
        wanted && NF && $1 !~ /^#/ { sub(/^[ \t]+/, ""); print }
    ' "$root/setup.cfg"
}

# environment NAME [EXTRA...]: set $env to a virtual environment of $executable
# that holds what minisocks and the extras require, but not minisocks itself,
# which always comes from the checkout. What the extra "oldest" requires goes to
# a folder beside the rest, $env/oldest, for tests that put it first.
#
# The folder is named after what it was made from, appears by one rename once
# it is complete, and is never changed after that. So one that exists is whole
# and up to date, a proxy that runs from an older one keeps it, and two starts
# at once, or one cut short, do no harm.
environment() {
    name=$1
    shift
    oldest=
    required=$(
        requirements options install_requires
        for extra; do
            [ "$extra" = oldest ] || requirements options.extras_require "$extra"
        done
    )
    for extra; do
        [ "$extra" != oldest ] || oldest=$(requirements options.extras_require oldest)
    done
    [ -n "$required" ] || die "cannot read the requirements in $root/setup.cfg"
    key=$(printf '%s\n' "$executable" "$required" "$oldest" | cksum)
    env=$root/.venv/$name-$version-${key%% *}
    [ -x "$env/bin/python" ] || make_environment
}

make_environment() {
    can_make_environments ||
        die "$executable lacks the venv module; install the package python3-venv (Debian: also python$version-venv)"
    { mkdir -p "$root/.venv" && new=$(mktemp -d "$root/.venv/tmp.XXXXXX"); } 2>/dev/null ||
        die "cannot write to $root/.venv; copy the checkout to a folder of yours, or start it there once as its owner"
    trap 'rm -rf "$new"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # What a killed run left behind; nothing takes a day to install.
    find "$root/.venv/." ! -name . -prune -name 'tmp.*' -mtime +0 -exec rm -rf {} + 2>/dev/null

    printf 'minisocks: making a virtual environment for Python %s, once\n' "$version" >&2
    printf '%s\n' "$required" >"$new/requirements"
    if ! fill_environment </dev/null >"$new/log" 2>&1; then
        tail -n 8 "$new/log" | sed 's/^/    /' >&2
        die "cannot make the virtual environment; is the package index within reach?"
    fi

    # Left without its interpreter, it would be in the way of the new one.
    if [ -d "$env" ] && [ ! -x "$env/bin/python" ]; then
        mv "$env" "$new/broken"
    fi
    # Unlike mv, rename(2) does not move into a folder that another start was
    # faster to put there.
    "$executable" -c 'import os, sys; os.rename(sys.argv[1], sys.argv[2])' \
        "$new/env" "$env" 2>/dev/null || [ -x "$env/bin/python" ] ||
        die "cannot create $env; remove it and try again"
    rm -rf "$new"
    trap - EXIT HUP INT TERM
}

fill_environment() (
    # Neither may lead pip out of the environment.
    unset PYTHONPATH PYTHONHOME
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

    "$executable" -m venv "$new/env" || exit 1
    # Python 3.6 comes with pip 18, which knows neither today's indexes nor
    # today's wheels. pip 21 is the last that runs on 3.6.
    case $("$new/env/bin/python" -m pip --version) in
        "pip "[0-9].* | "pip 1"[0-9].*)
            "$new/env/bin/python" -m pip install --quiet --upgrade 'pip<22' || exit 1
            ;;
    esac
    "$new/env/bin/python" -m pip install --quiet --requirement "$new/requirements" || exit 1
    [ -z "$oldest" ] ||
        "$new/env/bin/python" -m pip install --quiet --target "$new/env/oldest" "$oldest"
)
