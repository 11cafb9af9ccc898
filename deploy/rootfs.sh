#!/bin/sh
# Lays out the image's root: the binary, the libraries that it loads, a guest, and places to mount on.
#
#   deploy/rootfs.sh BINARY GUEST ROOT
#
# ROOT must be empty or absent. The libraries are this machine's: lay the root out on the machine that built the
# binary. This is POSIX sh, and runs only programs of Debian's base and its C toolchain.
set -eu

if [ $# -ne 3 ]; then
    echo "usage: $0 BINARY GUEST ROOT" >&2
    exit 64
fi
binary=$1 guest=$2 root=$3
# The user and group of the Pods' securityContext.
id=65532

if [ -e "$root" ] && [ -n "$(ls -A "$root")" ]; then
    echo "error: $root is not empty: name another directory" >&2
    exit 64
fi
for file in "$binary" "$guest"; do
    if [ ! -f "$file" ]; then
        echo "error: there is no file $file: build it first" >&2
        exit 64
    fi
done

umask 022
mkdir -p "$root/etc/ostrakon/config" "$root/usr/bin" "$root/usr/share/ostrakon" "$root/var/lib/ostrakon"
cp "$binary" "$root/usr/bin/ostrakon"
chmod 0755 "$root/usr/bin/ostrakon"
cp "$guest" "$root/usr/share/ostrakon/kv.wasm"
chmod 0644 "$root/usr/share/ostrakon/kv.wasm"

# The dynamic loader and the libraries that it would load, each under the path at which it is looked up. A static
# binary has none.
libraries=$(ldd "$binary" 2>&1) || case $libraries in
    *"not a dynamic executable"* | *"statically linked"*) libraries= ;;
    *)
        echo "error: ldd cannot read $binary: $libraries" >&2
        exit 70
        ;;
esac
case $libraries in
    *"not found"*)
        echo "error: $binary needs libraries that are not here: $libraries" >&2
        exit 70
        ;;
esac
printf '%s\n' "$libraries" | while read -r first arrow second _; do
    # `name => path (address)`, or `path (address)` for the loader; the kernel's vdso has no path.
    path=$first
    [ "$arrow" = "=>" ] && path=$second
    case $path in
        /*)
            mkdir -p "$root$(dirname "$path")"
            cp -L "$path" "$root$path"
            chmod 0755 "$root$path"
            ;;
    esac
done

# Names for the user: some libraries and people look them up.
printf 'root:x:0:0:root:/:/sbin/nologin\nostrakon:x:%s:%s:ostrakon:/var/lib/ostrakon:/sbin/nologin\n' \
    "$id" "$id" >"$root/etc/passwd"
printf 'root:x:0:\nostrakon:x:%s:\n' "$id" >"$root/etc/group"
# Without a ConfigMap mounted over it, the default guest serves with default settings.
printf '# The settings of the runtime: none, so the defaults apply.\n' >"$root/etc/ostrakon/config/ostrakon.toml"
# `localhost` needs no DNS.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

# If no volume is mounted, the data is in the container, whose user may be a different one.
chmod 0777 "$root/var/lib/ostrakon"
