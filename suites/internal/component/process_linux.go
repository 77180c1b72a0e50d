package component

import "syscall"

// dieWithParent interrupts the go command when this process is killed.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGINT }
