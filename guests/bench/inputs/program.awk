# Counts words and their lengths, and changes every line.
{
	for (i = 1; i <= NF; i++) {
		count[$i]++
		lengths[length($i)]++
	}
	gsub(/an[a-d]/, "<&>")
	if ($0 ~ /(bel|ven).*[0-9]+/)
		matched++
	total += length($0)
}
END {
	for (word in count)
		if (count[word] > most || count[word] == most && word < best) {
			most = count[word]
			best = word
		}
	for (i = 1; i < 40; i++)
		printf "%d ", lengths[i]
	print best, most, matched, total
}
