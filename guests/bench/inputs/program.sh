# What a shell does by itself: arithmetic, strings, functions, case.
i=0 sum=0 text=
step() {
	case $(($1 % 5)) in
	0) sum=$((sum + $1 * 3)) ;;
	1) sum=$((sum ^ $1)) ;;
	2) text=${text#?}x ;;
	*) text=$text. ;;
	esac
	[ ${#text} -gt 40 ] && text=
}
while [ $i -lt 60000 ]; do
	step $i
	i=$((i + 1))
done
echo "$sum $text"
