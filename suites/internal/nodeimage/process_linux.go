package nodeimage

import "syscall"

// dieWithParent ends the recipe when this process is killed.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGTERM }
