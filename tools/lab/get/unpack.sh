# SPDX-License-Identifier: GPL-2.0-only
# What "fetch" makes of Debian's packages: unpack_PART DIR makes PART in DIR, with the packages in DIR/deb meanwhile.

unpack() {
	mkdir "$1/deb"
	"unpack_$part" "$1"
	rm -rf "$1/deb"
	echo "$VERSION" >"$1/version"
}

unpack_kernel() {
	local kbuild src m deb
	# Called after the ABI, or after the release.
	kbuild=$(apt-cache show "linux-headers-$ABI-$FLAVOUR=$VERSION" |
		 sed -n 's/^Depends:.* \(linux-kbuild-[^ ,]*\).*/\1/p')
	# There is one for all of 6.1, of which apt has not every version; the headers take a later one as well.
	kbuild=$kbuild=$(apt-cache madison "$kbuild" | awk -F'|' -v wanted="$VERSION" '
		{ gsub(/ /, "", $2) } NR == 1 || $2 == wanted { v = $2 } END { print v }')
	download "$1/deb" $(images) linux-headers-$ABI-$FLAVOUR linux-headers-$ABI-common $kbuild
	mkdir "$1/root" "$1/ko" "$1/headers"
	for deb in "$1"/deb/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$1/root" $(set -f; printf -- '--exclude=*/%s ' $unread)
	done
	find "$1/root" -name 'vmlinuz*' -exec mv {} "$1/vmlinuz" \;
	src=$1/root/usr/src
	unpack_vmlinux "$1/vmlinuz" "$src/linux-headers-$ABI-$FLAVOUR/.config" >"$1/vmlinux"
	for m in kvm kvm-amd irqbypass; do
		find "$1/root" -name "$m.ko*" -exec xz -dcf {} \; >"$1/ko/$m.ko"
		drop_signature "$1/ko/$m.ko"
	done
	# The packages expect to be in /usr/src. Without vmlinux there is no BTF in
	# a module, and none is needed.
	sed -i 's,/usr/src/,../,g' "$src/linux-headers-$ABI-$FLAVOUR/Makefile"
	rm -f "$src/linux-headers-$ABI-$FLAVOUR/vmlinux"
	mv "$src" "$1/root/usr/lib" "$1/headers"
	ln -s "src/linux-headers-$ABI-$FLAVOUR" "$1/headers/build"
	rm -rf "$1/root" "$1/headers/lib/modules"
	! ldd "$1"/headers/lib/linux-kbuild-*/scripts/mod/modpost.real-lsb-64 2>&1 | grep -q 'not found' ||
		fit_headers "$1"
}
images() { for i in $IMAGE; do echo "$i-$ABI-$FLAVOUR"; done; }

# drop_signature MODULE: what stands behind the module itself, and has the kernel hash all of it, a third of a guest's
# boot, for a key that it does not load (boot/image.sh).
drop_signature() {
	tail -c 28 "$1" | grep -qaxF '~Module signature appended~' || return 0
	truncate -s -$((40 + $(tail -c 32 "$1" | od -A n -N 4 -t u4 --endian=big))) "$1"
}

# unpack_vmlinux VMLINUZ CONFIG: prints the kernel in VMLINUZ, which an emulated CPU would take most of a
# second to unpack. Where it is stands in VMLINUZ (Documentation/arch/x86/boot.rst).
unpack_vmlinux() {
	local start="$((($(number "$1" 0x1f1 1) + 1) * 512 + $(number "$1" 0x248 4)))"
	tail -c +$((start + 1)) "$1" | head -c $(($(number "$1" 0x24c 4) - 4)) |
	case $(sed -n 's/^CONFIG_KERNEL_\([A-Z0-9]*\)=y/\1/p' "$2") in
	LZ4)	lz4 -dc ;;
	XZ)	xz -dc ;;
	ZSTD)	zstd -dc ;;
	*)	die "vmlinuz is compressed in another way than LZ4, XZ or ZSTD" ;;
	esac
}
# number FILE OFFSET BYTES: prints what is there, little endian.
number() { od -A n -j "$2" -N "$3" -t "u$3" "$1" | tr -d ' '; }

# Headers of a later Debian release: what they say of a newer gcc does not hold for this one,
# and the two programs that a module needs and that a newer glibc was taken for are built anew.
fit_headers() {
	local tools="$1/tools" kbuild from
	kbuild=$(echo "$1"/headers/lib/linux-kbuild-*) from=$("$0" "$name" source)/tree
	sed -i '/^CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=/d' "$1/headers/build/include/config/auto.conf"
	mkdir -p "$tools/include"
	cp -a "$from/tools" "$from/scripts" "$tools"
	cp -a "$from/include/linux" "$tools/include"
	make -s -j"$jobs" -C "$tools/tools/objtool" SRCARCH=x86 CC=$gcc HOSTCC=$gcc >&2
	make -s -C "$1/headers/build" M="$tools/scripts/mod" CC=$gcc HOSTCC=$gcc \
		HOSTCFLAGS="-O2 -I$tools/scripts/include" >&2
	cp "$tools/tools/objtool/objtool" "$kbuild/tools/objtool/objtool.real-x86"
	cp "$tools/scripts/mod/modpost" "$kbuild/scripts/mod/modpost.real-lsb-64"
	rm -rf "$tools"
}

# unpack_tree DIR ARG...: the kernel's source, as far as tar with ARGs takes it. Parallel xz is what makes this seconds.
unpack_tree() {
	local dir="$1"
	shift
	mkdir "$dir/tree"
	download "$dir/deb" "$SOURCE"
	dpkg-deb --fsys-tarfile "$dir"/deb/linux-source-*.deb | tar -xO "./usr/src/$SOURCE.tar.xz" |
		xz -dc -T0 | tar -x -C "$dir/tree" --strip-components=1 "$@"
}
unpack_source() {
	unpack_tree "$1" --wildcards $(set -f; printf "$SOURCE/%s " $parts)
	[ $name = $newest ] || return 0
	mkdir "$1/uapi"
	download "$1/deb" linux-libc-dev
	dpkg-deb --fsys-tarfile "$1"/deb/linux-libc-dev*.deb | tar -x -C "$1/uapi" ./usr/include ./usr/lib/linux/uapi/x86
}
# Without most of what is neither KVM nor included by it, which is three quarters of it.
unpack_full() {
	unpack_tree "$1" $(set -f; printf -- "--exclude=$SOURCE/%s " 'arch/[a-tv-w]*.[chS]' 'arch/*.dts*' 'drivers/*.[chS]' \
		'fs/*.[ch]' 'net/*.[ch]' 'sound/*.[ch]' Documentation/devicetree tools/perf)
}

unpack_whole() { unpack_tree "$1"; }

unpack_modules() {
	download "$1/deb" $(images)
	for deb in "$1"/deb/*.deb; do dpkg-deb -x "$deb" "$1/root"; done
	mv "$(dirname "$(find "$1/root" -type d -path '*/lib/modules')")" "$1/lib"
	rm -rf "$1/root"
	depmod -b "$1" "$ABI-$FLAVOUR"
}
