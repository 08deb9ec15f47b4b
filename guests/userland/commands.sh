# What Debian's own programs print, the same on any machine. Each command's output follows a line that names it, and its
# status stands after. The folder it runs in is its own.
export LC_ALL=C.UTF-8 TZ=UTC TERM=dumb PYTHONHASHSEED=0
mkdir -p /var/cache/apt/archives/partial
run() {
	echo "## $1"
	bash -c "$1" </dev/null 2>&1
	echo "## status $?"
}

run 'apt-get --version'
run 'apt-cache policy gcc hello'
run 'apt-cache show bash hello'
run 'apt-cache depends --recurse --no-suggests --important gdb | sort'
run 'apt-cache search --names-only "^python3-n" | sort'
run 'apt-cache stats'
run 'apt-get -q -s install gcc'
run 'apt-get -q -s install hello nginx'
run 'apt-get -q -s remove perl'
run 'apt-get -q -o Debug::NoLocking=1 check'
run 'apt-mark showmanual'
run 'apt-config dump | sort'
run 'dpkg -l'
run 'dpkg --audit'
run 'dpkg --verify bash coreutils libc6'
run 'dpkg -s coreutils'
run 'dpkg -L bash dash'
run 'dpkg -S /usr/bin/perl /usr/lib/gcc'
run 'dpkg --compare-versions 1:2.0~rc1 lt 1:2.0'

cat >program.c <<'END'
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int compare(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}
static unsigned ackermann(unsigned m, unsigned n) {
	return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
int main(int argc, char **argv) {
	static double values[100000];
	uint64_t state = 42;
	for (int i = 0; i < 100000; i++) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		values[i] = sqrt((double)(state >> 11)) / 3.0 - (double)(int64_t)state / 7e9;
	}
	qsort(values, 100000, sizeof *values, compare);
	long double sum = 0;
	float single = 0;
	for (int i = 0; i < 100000; i++) {
		sum += values[i] * (long double)i;
		single += (float)values[i];
	}
	printf("%s %.17g %.17g %.21Lg %.9g %u\n", argv[argc - 1], values[0], values[99999], sum, single, ackermann(2, 300));
	return 0;
}
END
for options in '-O0 -g' '-O3 -ftree-vectorize' '-Os -static' '-O2 -mfpmath=387 -fsanitize=undefined'; do
	run "gcc -std=c11 -Wall $options program.c -o program -lm && ./program '$options'"
done
run 'gcc -O2 -S -masm=intel program.c -o - | sha256sum'
run 'gcc -std=gnu99 -O2 -DLUA_USE_LINUX -c /usr/src/lua/src/lstrlib.c -o lstrlib.o && sha256sum lstrlib.o'
run 'echo "int main(void) { return undeclared }" | gcc -xc -'
run 'ar cr library.a lstrlib.o && nm library.a | sha256sum && objdump -d lstrlib.o | sha256sum && readelf -a program | sha256sum'

cat >script.pl <<'END'
use strict; use warnings; use Digest::SHA qw(sha256_hex); use List::Util qw(reduce shuffle); use POSIX ();
my %count; my $seed = 7;
for my $i (1 .. 20000) { $seed = ($seed * 1103515245 + 12345) % 2147483648; $count{$seed % 1009} .= chr(65 + $seed % 26) }
my $text = join ',', map { "$_=" . length $count{$_} } sort { $a <=> $b } keys %count;
print sha256_hex($text), "\n";
my $words = join ' ', map { scalar reverse } split //, "The quick brown fox" x 40;
my $hits = () = $words =~ /(\w)(?=.*\1)(?<!q)\s?/g;
print "$hits ", POSIX::floor(-2.5), sprintf(" %.15g %e %x %s\n", 1/3, 6.02214076e23, 3735928559, reduce { $a * $b } 1 .. 20);
(my $shouted = $words) =~ s/([aeiou])/uc($1)/ge; print sha256_hex($shouted), "\n";
my @sorted = sort { $b <=> $a } map { ($_ * 7919) % 10007 / 3 } 1 .. 2000; printf "%.10f %.10f\n", @sorted[0, 1999];
print pack("d> N w", 3.14159, 42, 300) =~ s/(.)/sprintf "%02x", ord $1/gers, "\n";
local $SIG{ALRM} = sub { print "alarm\n" }; my $pid = fork // die; exit 7 if !$pid; waitpid $pid, 0; print $? >> 8, "\n";
END
run 'perl script.pl'
run "perl -MConfig -e 'print \"\$Config{archname} \$Config{nvsize} \$]\n\"'"

cat >script.py <<'END'
import bz2, decimal, fractions, hashlib, json, lzma, math, random, re, struct, subprocess, sys, threading, zlib
random.seed(2)
data = bytes(random.randrange(97, 110) for _ in range(20000))
print(hashlib.sha256(data).hexdigest(), zlib.crc32(data), zlib.adler32(data))
for codec in (zlib, bz2, lzma):
    packed = codec.compress(data)
    assert codec.decompress(packed) == data
    print(codec.__name__, len(packed), hashlib.md5(packed).hexdigest())
print(hashlib.sha512(str(pow(3, 20000)).encode()).hexdigest() if not hasattr(sys, 'set_int_max_str_digits')
      else (sys.set_int_max_str_digits(0), hashlib.sha512(str(pow(3, 20000)).encode()).hexdigest())[1])
decimal.getcontext().prec = 200
print(decimal.Decimal(2).sqrt(), decimal.Decimal(1).exp())
print(sum((fractions.Fraction(1, n) for n in range(1, 200)), fractions.Fraction(0)))
print(repr(math.fsum(1 / n for n in range(1, 20000))), math.gcd(2**200 - 1, 2**150 - 1), math.isqrt(10**61))
print('%.12g %.12g %.12g' % (math.sin(1e5), math.exp(-3.3), math.gamma(7.7)))
print(json.dumps({str(k): [random.random() for _ in range(3)] for k in range(20)}, sort_keys=True))
print(len(re.findall(rb'(?:a|b)+c(?=[d-g])', data)), struct.pack('>dfhq', 1.5, -2.25, -3, 1 << 40).hex())
totals = []
threads = [threading.Thread(target=lambda n=n: totals.append(sum(i * n for i in range(20000)))) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(totals), subprocess.run(['sh', '-c', 'echo $((6 * 7)); exit 3'], capture_output=True))
def generate(n): yield from (generate(n - 1) if n else [0]); yield n
print(sum(generate(150)), [*map(chr, range(0x3b1, 0x3ba))])
END
run 'python3 script.py'
run 'python3 -m compileall -q -f -d x -o 0 script.py && python3 -c "import dis; dis.dis(compile(\"a = b + c[1:2]\", \"x\", \"exec\"))"'

cat >script.sql <<'END'
CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
INSERT INTO t SELECT i, printf('name-%05d', (i * 7919) % 20011), (i * 37 % 1000) / 8.0 FROM n;
CREATE INDEX by_name ON t(name);
SELECT count(*), sum(value), avg(value), min(name), max(name) FROM t;
SELECT name, value FROM t WHERE name LIKE 'name-012%' ORDER BY name LIMIT 10;
BEGIN; DELETE FROM t WHERE id % 3 = 0; UPDATE t SET value = value * 2 WHERE id % 5 = 0; COMMIT;
SELECT substr(name, 1, 7) AS k, count(*), round(sum(value), 3) FROM t GROUP BY k ORDER BY k;
SELECT a.id, b.id FROM t a JOIN t b ON a.name = b.name AND a.id <> b.id LIMIT 5;
VACUUM; PRAGMA integrity_check; EXPLAIN QUERY PLAN SELECT * FROM t WHERE name = 'x';
SELECT json_group_array(id) FROM (SELECT id FROM t WHERE value > 240 ORDER BY id LIMIT 50);
END
run 'sqlite3 data.db <script.sql && sha256sum data.db'

run 'seq 1 15000 >numbers; head -c 400000 /usr/bin/perl >binary; sha256sum numbers binary'
run 'xz -kc -3 binary | tee packed.xz | sha256sum; xz -dc packed.xz | cmp - binary; xz -l packed.xz'
run 'gzip -9nc binary | tee packed.gz | sha256sum; gunzip -c packed.gz | cmp - binary'
run 'mawk "{ s += \$1 * 1.5; c[\$1 % 7]++ } END { printf \"%.3f\", s; for (i = 0; i < 7; i++) printf \" %d\", c[i]; print \"\" }" numbers'
run 'sort -r numbers | md5sum; sort -n -k1.2 numbers | sha1sum; shuf --random-source=binary numbers | sha512sum | cut -c1-40'
run 'grep -cP "^(?=.*1)(?!.*2)[0-9]+(3|7)$" numbers; sed -n "s/\(.\)\(.\)\1/<\2>/gp" numbers | sha256sum'
run 'tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - -C /usr/lib/python3.11/json . | sha256sum'
run 'find /usr/bin /usr/share/perl5 -type f | sort | xargs sha256sum | sha256sum; find /usr/src/lua -type f -printf "%s %m %t %p\n" | sort | sha256sum'
run 'a=0; for ((i = 0; i < 3000; i++)); do ((a = (a * 31 + i) % 65521)); done; echo $a; echo ${BASH_VERSINFO[@]}'
run 'dash -c "i=0; while [ \$i -lt 3000 ]; do i=\$((i + 1)); done; echo \$i"; i=0; while ((i++ < 60)); do /bin/echo $i | cat; done | md5sum'
run 'luajit -e "local t, s = {}, 0 for i = 1, 3e6 do s = (s * 33 + bit.bxor(i, s)) % 2147483647 end print(s) for i = 1, 300 do t[i] = (\"x\"):rep(i % 7) .. i end print(#table.concat(t), math.sqrt(2))"'

cat >debugged.c <<'END'
#include <stdio.h>
static volatile int watched;
static int twice(int x) {
	int y = x * 2;
	watched += y;
	return y;
}
int main(void) {
	int sum = 0;
	for (int i = 1; i <= 5; i++)
		sum += twice(i);
	printf("sum %d watched %d\n", sum, watched);
	return 0;
}
END
cat >debugged.gdb <<'END'
set confirm off
set width 0
break twice if x == 3
run
backtrace
info registers rax rdx rip eflags
watch watched
continue
continue
delete
finish
step
step
stepi 7
info registers rip
next
print watched * 3.5
set variable watched = 100
disassemble twice
continue
END
run 'gcc -g -O0 -no-pie debugged.c -o debugged && gdb -nx -q -batch -x debugged.gdb ./debugged 2>&1 | sed "s/process [0-9]*/process/"'
run 'strace -f -e trace=write,exit_group,kill -e signal=none sh -c "echo one; (echo two); exit 4" 2>&1 | sed "s/pid *[0-9]*/pid/; s/Process [0-9]*/Process/"'
