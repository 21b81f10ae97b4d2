#!/bin/sh
# Brings novnc/ to the release that novnc.pin names, after checking that it is that one. It needs npm, tar and openssl.
# To take another release, change version in novnc.pin, run this once to be told its integrity, and compare that with
# the release's page before writing it down.
set -eu
cd "$(dirname "$0")"
version=$(sed -n 's/^version *//p' novnc.pin)
want=$(sed -n 's/^integrity *//p' novnc.pin)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
(cd "$dir" && npm pack --silent "@novnc/novnc@$version" >/dev/null && tar xzf ./*.tgz)
got=sha512-$(openssl dgst -sha512 -binary "$dir"/*.tgz | openssl base64 -A)
if [ "$got" != "$want" ]; then
	echo "the release $version has the integrity $got, and novnc.pin says $want" >&2
	exit 1
fi
rm -rf novnc
mkdir -p novnc/third_party novnc/docs
cp -r "$dir/package/core" novnc/core
cp -r "$dir/package/vendor/pako" novnc/third_party/pako
cp "$dir/package/LICENSE.txt" "$dir/package/AUTHORS" novnc/
cp "$dir/package/docs/LICENSE.MPL-2.0" "$dir/package/docs/LICENSE.BSD-2-Clause" "$dir/package/docs/LICENSE.BSD-3-Clause" novnc/docs/
chmod -R u=rwX,go=rX novnc
(cd novnc && find . -type f | LC_ALL=C sort | sed 's,^\./,,' | xargs sha256sum) >novnc.sha256
