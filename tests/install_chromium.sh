#!/bin/sh
# The tests of the web page need Chromium. Installs Debian's where that is possible without asking
# anybody; never fails: where there is no browser the tests are skipped and say so.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing chromium for the tests of the web page"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 && exit 0
fi
echo "NO CHROMIUM: the tests of the web page will be skipped; install it to run them" >&2
exit 0
