# Text and hashes: counts words, sorts them, turns lines inside out by regular expressions, multiplies matrices.
use strict;
use warnings;
my $seed = 42;
sub below { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; return ($seed >> 8) % $_[0] }

my @letters = ('a' .. 'z');
my (%count, @lines);
for my $line (1 .. 6000) {
	my @words = map { join '', map { $letters[below(6) + below(3)] } 1 .. 2 + below(4) } 1 .. 8;
	$count{$_}++ for @words;
	push @lines, join ' ', @words;
}
my @common = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "$_ $count{$_}\n" for @common[0 .. 19];

my ($swapped, $vowels) = (0, 0);
for (@lines) {
	$swapped++ while s/\b(\w)(\w+) \1(\w+)\b/$3-$2/;
	$vowels += tr/aeiou//;
}
print "$swapped $vowels\n";

my $side = 40;
my @matrix = map { my $row = $_; [map { $row * $_ % 7 + 1 } 1 .. $side] } 1 .. $side;
my @power = @matrix;
for (1 .. 2) {
	my @next;
	for my $i (0 .. $side - 1) {
		for my $j (0 .. $side - 1) {
			my $sum = 0;
			$sum += $power[$i][$_] * $matrix[$_][$j] for 0 .. $side - 1;
			$next[$i][$j] = $sum % 10007;
		}
	}
	@power = @next;
}
print join(' ', @{$power[7]}), "\n";
