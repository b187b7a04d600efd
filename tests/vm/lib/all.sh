# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# all.sh - source the whole library, in the order in which its parts need each other
here_lib=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tests/vm/lib/common.sh
. "$here_lib/common.sh"
# shellcheck source=tests/vm/lib/packages.sh
. "$here_lib/packages.sh"
# shellcheck source=tests/vm/lib/suites.sh
. "$here_lib/suites.sh"
# shellcheck source=tests/vm/lib/kernels.sh
. "$here_lib/kernels.sh"
# shellcheck source=tests/vm/lib/accel.sh
. "$here_lib/accel.sh"
# shellcheck source=tests/vm/lib/image.sh
. "$here_lib/image.sh"
# shellcheck source=tests/vm/lib/tap.sh
. "$here_lib/tap.sh"
# shellcheck source=tests/vm/lib/vm.sh
. "$here_lib/vm.sh"
# shellcheck source=tests/vm/lib/peers.sh
. "$here_lib/peers.sh"
