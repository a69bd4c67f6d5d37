/** Names of network devices, as the configuration and rules may hold them. */

/**
 * Whether text can be the name of a device that a rule means and no other. Letters that mean something to nft or
 * iptables, such as * and +, would match other devices too; and `.` and `..` are no names in /proc/sys.
 */
export function isDeviceName(text: string): boolean {
  return /^[A-Za-z0-9_.@-]{1,15}$/.test(text) && !/^\.{1,2}$/.test(text);
}
