"""The hypervisor: signs people in, runs their sandboxes, proxies their desktops."""
