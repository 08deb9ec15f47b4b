# Runs rows of the benchmark, in a guest or on the host itself:
#   run.sh SECONDS LEAST ROW...
# SECONDS and LEAST are those of bench run. B is the folder of this file and of the program bench.
# R is the tree of Debian whose programs are rows; without it, that is the disk /dev/vda.
exec 2>&1
B=${B:-/bench} seconds=$1 least=$2
shift 2

# Whoever listens looks at this process's memory now.
mark() {
	echo "bench mark $1"
	sleep 0.3
}

# Debian's programs, and what they work on, in a folder that is memory everywhere.
debian() {
	if [ -z "$R" ]; then
		R=/mnt
		modprobe ext4 2>/dev/null
		mount -t ext4 -o ro /dev/vda $R || return 1
	fi
	mount -t tmpfs tmpfs "$R/tmp" && mount -o rbind /dev "$R/dev" && mount -o rbind /proc "$R/proc" &&
		cp "$B"/inputs/* "$R/tmp" &&
		"$B/bench" generate source 20000 >"$R/tmp/source.i" &&
		"$B/bench" generate text 3000000 >"$R/tmp/text"
}

# program ROW PATH ARGUMENT...
program() {
	"$B/bench" exec -s "$seconds" -n "$least" -r "$R" -d /tmp "$@" || status=1
}

status=0
mark boot
ready=
for row; do
	case $row in
	cc1 | perl | sqlite | xz | gzip | awk | shell | make-j*)
		if [ -z "$ready" ]; then
			ready=yes
			debian || { echo "Debian's programs can't be reached"; exit 1; }
		fi ;;
	esac
	case $row in
	cc1)
		for cc1 in "$R"/usr/lib/gcc/x86_64-linux-gnu/*/cc1; do :; done
		program cc1 "${cc1#"$R"}" -quiet -O2 -fpreprocessed source.i -o - ;;
	perl) program perl /usr/bin/perl program.pl ;;
	sqlite) program sqlite /usr/bin/sqlite3 :memory: '.read program.sql' ;;
	xz) program xz /usr/bin/xz -2 -T1 -k -c text ;;
	gzip) program gzip /bin/gzip -6 -n -k -c text ;;
	awk) program awk /usr/bin/mawk -f program.awk text ;;
	shell) program shell /bin/dash program.sh ;;
	make-j*)
		least=1
		program "$row" /bin/sh make.sh "-${row#make-}" ;;
	*)
		if "$B/bench" list | grep -qx "$row"; then
			"$B/bench" run -s "$seconds" -n "$least" "$row" || status=1
		else
			echo "bench fail $row there is no such row"
			status=1
		fi ;;
	esac
done
mark rows
exit $status
