#!/bin/sh
# build_adbd.sh OUT: builds Android's own adbd for Linux from Debian's source package (bookworm's
# android-platform-tools, 76 MB; no package has the daemon). It takes two minutes. As root:
#   apt-get install adb dpkg-dev g++ libcap-dev android-libbase-dev android-libcutils-dev \
#     android-liblog-dev android-libboringssl-dev
# Then: LEPTON_EDGE_ADBD=OUT python -m pytest tests/device/test_adb.py
set -eu
out=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir lists objects
echo "deb-src http://deb.debian.org/debian bookworm main" >sources.list
source="-o Dir::Etc::SourceList=$folder/sources.list -o Dir::Etc::SourceParts=/dev/null"
source="$source -o Dir::State::Lists=$folder/lists"
# shellcheck disable=SC2086 # options, to be split
apt-get $source update -q && apt-get $source source -q android-platform-tools
cd android-platform-tools-*/
core=system/core
# An attribute of clang's that g++ has no place for.
sed -i 's/\(#define THREAD_ANNOTATION_ATTRIBUTE__(x)\).*/\1/' \
  $core/base/include/android-base/thread_annotations.h
set -- -O1 -w -D_GNU_SOURCE -DADB_HOST=0 -DALLOW_ADBD_ROOT=1 -DALLOW_ADBD_NO_AUTH \
  '-DADB_VERSION="source"' '-DPLATFORM_TOOLS_VERSION="29.0.6"' \
  -I$core/base/include -I/usr/include/android -I$core/include -I$core/adb \
  -I$core/adb/daemon/include -I$core/adb/adbconnection/include -I$core/diagnose_usb/include \
  -I$core/libcrypto_utils/include -I$core/libcutils/include -I$core/libasyncio/include \
  -Iframeworks/native/libs/adbd_auth/include
adb="adb adb_io adb_listeners adb_trace adb_unique_fd adb_utils fdevent/fdevent services sockets
  fdevent/fdevent_poll fdevent/fdevent_epoll socket_spec sysdeps/errno sysdeps/posix/network
  sysdeps_unix transport transport_fd transport_local transport_usb types shell_service_protocol
  daemon/auth daemon/jdwp_service daemon/usb_dummy daemon/file_sync_service daemon/services
  daemon/shell_service daemon/main adbconnection/adbconnection_server"
for file in $adb; do
  g++ -std=gnu++2a "$@" -c $core/adb/$file.cpp -o "$folder/objects/$(echo $file | tr / _).o"
done
for file in frameworks/native/libs/adbd_auth/adbd_auth $core/libasyncio/AsyncIO \
  $core/diagnose_usb/diagnose_usb; do
  g++ -std=gnu++2a -include atomic -include optional "$@" -c $file.cpp \
    -o "$folder/objects/$(basename $file).o"
done
gcc "$@" -c $core/libcrypto_utils/android_pubkey.c -o "$folder/objects/android_pubkey.o"
libraries=$(dirname "$(find /usr/lib -path '*/android/libbase.so' | head -1)")
g++ -o "$out" "$folder"/objects/*.o "-L$libraries" "-Wl,-rpath=$libraries" \
  -lbase -lcrypto -lcutils -llog -lpthread -lresolv -lutil -lcap
