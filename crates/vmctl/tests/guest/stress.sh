# Much work with results that the test computes itself. $BB is the busybox to do it with.
mkdir -p /tmp/work
mount -t tmpfs none /tmp/work
cd /tmp/work
work() {
	# Hundreds of processes, each at the end of a pipe.
	i=0
	while [ $i -lt 150 ]; do
		echo $i | $BB sha256sum
		i=$((i + 1))
	done >sums.$1
	$BB seq 1 30000 >numbers.$1
	$BB gzip -c numbers.$1 | $BB gunzip -c | $BB cmp - numbers.$1 || echo "gzip $1 differs"
	$BB awk 'BEGIN { for (i = 1; i < 20000; i++) s += (i % 7 - 2.75) / i * 1.1; printf "%.9f\n", s }' >float.$1
	$BB sort -r numbers.$1 | $BB sha512sum >sorted.$1
}
workers=${WORKERS:-1}
n=1
while [ $n -le $workers ]; do
	work $n &
	n=$((n + 1))
done
wait
n=1
while [ $n -le $workers ]; do
	echo "sums $n $($BB sha256sum <sums.$n)"
	echo "numbers $n $($BB sha256sum <numbers.$n)"
	echo "sorted $n $($BB cat sorted.$n)"
	echo "float $n $($BB cat float.$n)"
	n=$((n + 1))
done
cd /
umount /tmp/work
