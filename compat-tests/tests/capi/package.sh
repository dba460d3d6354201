#!/bin/sh
# Installs our packages in place of Debian's, and runs Debian's programs on them. All of it in a copy of
# the file system that is gone afterwards, and in a network without others: run as
#
#   unshare -m -n --pid --fork --kill-child sh package.sh DIR PACKAGE...     DIR: empty, on a real file system
#
# Prints "installed" at the end if all is well.
set -eu
dir=$1
shift
mount --make-rprivate /
mount -t tmpfs none "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
mount -t proc proc "$dir/root/proc"
mount --rbind /dev "$dir/root/dev"
mount -t tmpfs none "$dir/root/tmp"
for package in "$@"; do
    cp "$package" "$dir/root/tmp/"
done
ip link set lo up
exec chroot "$dir/root" sh -eu -c '
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
cd /
unset LD_LIBRARY_PATH
echo "#!/bin/sh
exit 101" >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get install -q -y --no-install-recommends /tmp/*.deb
apt-get check -q
test -z "$(dpkg --audit)"
test "$(dpkg-query -W -f "\${db:Status-Status}" libdqlite0 2>/dev/null || echo none)" != installed
dpkg -S /usr/lib/*/libdqlite.so.0 | grep -q ^libdqlite0-dq
dpkg --verify libdqlite0-dq

# What is installed is what programs find.
ldd "$(command -v dqlite-demo)" | grep -q "libdqlite.so.0 => /"
! ldd "$(command -v dqlite-demo)" | grep -q libraft

mkdir /tmp/1
dqlite-demo --dir /tmp/1 --db 127.0.0.1:9001 --api 127.0.0.1:8001 &
demo=$!
tries=0
until dqlite -s 127.0.0.1:9001 demo "INSERT INTO model VALUES(\"key\", \"value\")"; do
    tries=$((tries + 1))
    test "$tries" -lt 150
    sleep 0.2
done
test "$(dqlite -s 127.0.0.1:9001 demo "SELECT * FROM model")" = "key|value"
grep -q "/libdqlite.so.0.0.1$" "/proc/$demo/maps"
kill "$demo"
wait "$demo" || true

# And programs can be built with the header, both ways.
if command -v pkg-config >/dev/null && command -v gcc >/dev/null && test -e /usr/include/sqlite3.h; then
    cat >/tmp/p.c <<C
#include <dqlite.h>
int main(void) { return dqlite_version_number() == DQLITE_VERSION_NUMBER ? 0 : 1; }
C
    gcc -o /tmp/shared /tmp/p.c $(pkg-config --cflags --libs dqlite)
    /tmp/shared
    gcc -o /tmp/static /tmp/p.c -Wl,-Bstatic -ldqlite -Wl,-Bdynamic -lpthread -ldl -lm
    /tmp/static
fi

# They go as they came.
apt-get remove -q -y libdqlite-dev-dq libdqlite0-dq >/dev/null
! ls /usr/lib/*/libdqlite.so.0 2>/dev/null
echo installed
'
