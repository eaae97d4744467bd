#!/usr/bin/env bash
# Finds or makes the CPythons to test with, the ones included that this Debian release does not have.
#
#   .ci/pythons.sh 3.14 3.15 3.13t     make those that are not there yet, one after the other ("t": free-threaded)
#   .ci/pythons.sh --path 3.14         print the interpreter; exit code 1 if there is none
#
# Looked for, in this order: what this script made, pyenv's versions, the PATH. What it makes is kept in
# $PROACTORX_PYTHONS (default ~/.cache/proactorx-pythons), with the log of its making beside it:
#   * an ordinary interpreter from the binary packages of newer Debian releases: unpacked in a folder, and told to load
#     the C library and all others from there (seconds; needs no chroot and disturbs nothing that is installed);
#   * a free-threaded one, which Debian does not package, from the upstream source that Debian's source package carries
#     (minutes). JOBS=N: how many compilers at once (default: as many as there are cores).
# Of the free-threaded ones only 3.13t could be made so far: on 30 November 2026 the mirror listed the sources of 3.14 and
# 3.15, in testing and in unstable, and answered 404 for each of their files. Nothing else here depends on the version.
set -euo pipefail

home=${PROACTORX_PYTHONS:-$HOME/.cache/proactorx-pythons}
suites=(testing unstable) # in this order; a mirror may lack the newest files of unstable
build_needs=(gcc make xz-utils libssl-dev libffi-dev zlib1g-dev libbz2-dev liblzma-dev)

# runs PYTHON NAME: whether it starts, is of this version and kind, and can make environments.
runs() {
  "$1" - "$2" > /dev/null 2>&1 << 'END'
import ssl, sys, sysconfig, venv
free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
sys.exit(sys.argv[1] != f"{sys.version_info[0]}.{sys.version_info[1]}{free}")
END
}

find_python() {
  local candidate
  if [ -e "$home/$1/interpreter" ]; then
    cat "$home/$1/interpreter"
    return
  fi
  for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"${1%t}".*/bin/"python$1" "$(command -v "python$1" || true)"; do
    if [ -x "$candidate" ] && runs "$candidate" "$1"; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

need_packages() {
  dpkg -s "$@" > /dev/null 2>&1 && return
  apt-get update -qq || true # one unreachable source must not matter: the next line decides
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

# An apt of our own in $work, which knows the newer releases and believes that nothing is installed:
# the machine's own package lists and sources stay as they are.
private_apt() {
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror suite kind
  mirror=$(sed -nE 's/^URIs: *([^ ]+).*/\1/p' /etc/apt/sources.list.d/debian.sources | head -n 1)
  mkdir -p "$work/lists/partial" "$work/archives/partial"
  touch "$work/status"
  for suite in "${suites[@]}"; do
    for kind in deb deb-src; do echo "$kind [signed-by=$keyring] $mirror $suite main"; done
  done > "$work/sources.list"
  apt_options=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
    -o "Dir::State::status=$work/status" -o "Dir::Cache=$work" -o Acquire::Languages=none -o APT::Sandbox::User=root)
  apt-get "${apt_options[@]}" update
}

source_from() {
  local suite
  for suite in "${suites[@]}"; do
    apt-get "${apt_options[@]}" source --download-only "$1/$suite" && return
  done
  return 1
}

binaries_from() {
  local suite
  for suite in "${suites[@]}"; do
    rm -f "$work"/archives/*.deb
    apt-get "${apt_options[@]}" -t "$suite" install -y --no-install-recommends --download-only "$@" && return
  done
  return 1
}

# unpack NAME: Debian's packages in $home/NAME, made to run where they are.
unpack() {
  local tree=$home/$1 python=$home/$1/usr/bin/python$1 libraries package loader
  need_packages gcc patchelf
  binaries_from "python$1-venv" "python$1-dev"
  for package in "$work"/archives/*.deb; do dpkg -x "$package" "$tree"; done
  libraries=$tree/usr/lib/$(gcc -print-multiarch)
  loader=$(find "$tree/usr/lib64" "$tree/usr/lib" "$libraries" -maxdepth 1 -name 'ld-linux*' 2> /dev/null | head -n 1)
  # RPATH (not RUNPATH) holds for the libraries of libraries too.
  patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$python"
  # Python.h finds the pyconfig.h of the architecture in /usr/include: give it one beside itself.
  ln -s "../$(gcc -print-multiarch)" "$tree/usr/include/python$1/$(gcc -print-multiarch)"
  # What it tells others about where its files are (ensurepip's wheels, headers): here, not in /usr.
  sed -i -E "s,/usr/(share|include|lib)/,$tree&,g" "$tree/usr/lib/python$1"/_sysconfigdata_*.py
  echo "$python" > "$work/interpreter"
}

compile() {
  local version=${1%t} source
  need_packages "${build_needs[@]}"
  mkdir "$work/$1" && cd "$work/$1"
  source_from "python$version"
  tar -xf "python${version}_"*.orig.tar.*
  source=$(echo Python-*/) && cd "$source"
  ./configure -q --prefix="$home/$1" --with-ensurepip=install --disable-gil
  make -s -j "${JOBS:-$(nproc)}"
  make -s install
  rm -rf "${work:?}/$1"
  echo "$home/$1/bin/python$1" > "$work/interpreter"
}

make_python() {
  rm -rf "${home:?}/$1"
  case $1 in
    *t) compile "$1" ;;
    *) unpack "$1" ;;
  esac
  local python
  python=$(cat "$work/interpreter")
  runs "$python" "$1"
  "$python" -c 'import asyncio, bz2, ctypes, lzma, sys, zlib; print(sys.version)'
  mv "$work/interpreter" "$home/$1/interpreter" # last: what says that it is whole
}

if [ "${1-}" = --path ]; then
  find_python "$2"
  exit
fi

missing=()
for name in "$@"; do
  find_python "$name" > /dev/null || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

mkdir -p "$home"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
private_apt
failed=0
for name in "${missing[@]}"; do
  started=$SECONDS
  set +e # one version that cannot be made must not cost the others
  (set -e; make_python "$name") > "$home/$name.log" 2>&1
  status=$?
  set -e
  if [ $status = 0 ]; then
    echo "$name: $(tail -n 1 "$home/$name.log"), made in $((SECONDS - started)) s"
  else
    echo "$name: could not be made, see $home/$name.log" >&2
    tail -n 20 "$home/$name.log" >&2
    failed=1
  fi
done
exit $failed
