#!/bin/sh
# Make the Docker image "python:3.13-slim" from the Python of a machine, since no registry can be asked for it.
# Usage: image.sh PYTHON VENV
set -eu
root=$(mktemp -d)
mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/etc" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
chmod 1777 "$root/tmp"
ln -s usr/bin usr/lib usr/lib64 "$root"
programs="$(which sh env ls id cat sleep)"
extensions=$(find "$1"/lib/*/lib-dynload "$2/lib" -name '*.so' -not -name '*mypyc*' -not -path '*/mypy/*')
{ ldd $programs "$1"/bin/python3 $extensions 2>/dev/null || true; } | grep -o '/[^ ]*\.so[^ ]*' | grep -v ':$' |
    sort -u | while read -r library; do
    case $library in
    /lib* | /usr/lib*)
        target=$root/usr${library#/usr}
        mkdir -p "$(dirname "$target")"
        cp -L "$library" "$target"
        ;;
    esac
done
cp -L $programs "$root/usr/bin"
ln -s "$1"/lib/libpython*.so* "$root/usr/lib"
# Without what no container of a test uses, half of the size.
excluded="test tests idlelib config-3.* *.a ensurepip mypy* *mypyc* kubernetes_validate hypothesis
    compose_spec autobahn twisted cryptography __pycache__/*.opt-*"
set -f
tar -c -C / $(printf -- '--exclude=%s ' $excluded) "${1#/}" "${2#/}" -C "$root" . |
    docker import --change "ENV PATH=$2/bin:/usr/bin" --change "ENV PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1" \
        - python:3.13-slim
rm -r "$root"
