# Prints what the kernel of a node says of every process that is in a container of
# a pod, a line each: a word, the process, and a value. Arguments: the IDs of the
# containers whose variables are printed as well. It starts few programs, since a
# node has many processes, and goes on where one ends meanwhile.
LC_ALL=C
export LC_ALL
wanted=" $* "

# Not echo: some shells' echo changes backslashes.
say() { printf '%s\n' "$*"; }

# The first line of a file, or nothing.
first() {
	line=
	read -r line 2>/dev/null <"$1"
}

for file in /sys/fs/cgroup/memory/memory.max_usage_in_bytes /sys/fs/cgroup/memory.peak; do
	first "$file"
	if [ -n "$line" ]; then
		say peak "$file" "$line"
		break
	fi
done

for folder in /proc/[0-9]*; do
	pid=${folder#/proc/}
	group= kind=
	while IFS=: read -r number controllers path; do
		case $path in *kubepods*) ;; *) continue ;; esac
		case $controllers in
		memory) group=$path kind=v1 ;;
		'') [ -n "$group" ] || { group=$path kind=v2; } ;;
		esac
	done 2>/dev/null <"$folder/cgroup"
	# A container may have groups of its own below the one that the runtime made.
	case $group in
	*cri-containerd-*.scope*)
		group=${group%%.scope*}.scope
		container=${group##*cri-containerd-}
		container=${container%.scope}
		;;
	*/pod*/*)
		container=${group##*/pod}
		group=${group%"$container"}${container%%/*}
		container=${container#*/}
		container=${container%%/*}
		group=$group/$container
		;;
	*) continue ;;
	esac
	say container "$pid" "$container"
	parent=
	while IFS= read -r line; do
		case $line in
		PPid:* | Uid:* | Gid:* | Groups:* | CapEff:* | CapPrm:* | CapBnd:* | NoNewPrivs:* | Seccomp:* | VmHWM:*)
			say status "$pid" "$line"
			case $line in PPid:*) parent=${line#PPid:?} ;; esac
			;;
		esac
	done 2>/dev/null <"$folder/status"
	first "$folder/stat"
	say stat "$pid" "$line"
	say exe "$pid" "$(readlink -n "$folder/exe" 2>/dev/null | base64 -w 0)"
	say cmdline "$pid" "$(base64 -w 0 "$folder/cmdline" 2>/dev/null)"
	case $wanted in *" $container "*) say environ "$pid" "$(base64 -w 0 "$folder/environ" 2>/dev/null)" ;; esac
	first "/proc/$parent/comm"
	say parent "$pid" "$line"
	[ "$line" = containerd-shim ] || continue
	while IFS= read -r line; do
		say mount "$pid" "$line"
	done 2>/dev/null <"$folder/mountinfo"
	case $kind in
	v1)
		first "/sys/fs/cgroup/memory$group/memory.limit_in_bytes"
		[ -z "$line" ] || say memory "$pid" "$line"
		first "/sys/fs/cgroup/cpu$group/cpu.cfs_quota_us"
		quota=$line
		first "/sys/fs/cgroup/cpu$group/cpu.cfs_period_us"
		[ -z "$quota" ] || say cpu "$pid" "$quota" "$line"
		;;
	v2)
		first "/sys/fs/cgroup$group/memory.max"
		[ -z "$line" ] || say memory "$pid" "$line"
		first "/sys/fs/cgroup$group/cpu.max"
		[ -z "$line" ] || say cpu "$pid" "$line"
		;;
	esac
done
say end
