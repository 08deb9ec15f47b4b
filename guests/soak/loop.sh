# Runs the jobs one after the other, several at a time, until the time is over or one has failed: bash loop.sh MINUTES
# WORKERS. What it says on its lines is read by `cargo xtask soak`.
cd "${0%/*}"
end=$((SECONDS + 60 * $1))
jobs=(userland compile pack)
for program in $(./stress list); do
	case $program in
	patch_disk | memory_eat) ;; # a disk of code and little memory are theirs
	*)
		jobs+=("stress $program")
		echo "$program ok" >"expected/stress $program"
		;;
	esac
done
complaints='BUG:|Oops|Call Trace|general protection|segfault|lockup|stall|invalid opcode|nable to handle|ouble fault|I/O error|Bad page'

worker() {
	RANDOM=$1
	local turn=0 job
	while ((SECONDS < end)) && [ ! -e failed ]; do
		# All of them once, the workers beginning at different ones, and then any.
		job=${jobs[turn < ${#jobs[@]} ? (turn + $1 * 7) % ${#jobs[@]} : RANDOM % ${#jobs[@]}]}
		((turn++))
		rm -rf "/tmp/work.$1" && mkdir "/tmp/work.$1"
		local began=$SECONDS
		# shellcheck disable=SC2086 # a job has two words
		(cd "/tmp/work.$1" && timeout 3600 sh /soak/jobs.sh $job >"/tmp/output.$1" 2>&1 </dev/null)
		if ! cmp -s "/tmp/output.$1" "expected/$job"; then
			touch failed
			printf 'soak: failed %s\n%s\n' "$job" "$(diff "expected/$job" "/tmp/output.$1" | head -n 60)"
		elif dmesg | grep -qE "$complaints"; then
			touch failed
			printf 'soak: failed the kernel complains\n%s\n' "$(dmesg | grep -E -B20 -A40 "$complaints" | head -n 200)"
		else
			echo "soak: done $((SECONDS - began)) s $job"
		fi
	done
}

for ((n = 1; n <= $2; n++)); do
	worker $n &
done
wait
[ ! -e failed ] && echo 'soak: ended'
