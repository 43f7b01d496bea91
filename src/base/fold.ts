/** A person's packets are shown one by one. A flood is folded, until a second has few packets again. */

export const SHOWN_A_SECOND = 20; // packets: more is a flood

export class Fold {
  isFolded = false;
  packets = 0; // in this second, as far as show() was asked

  /** One more packet: is it shown? */
  show(): boolean {
    if (++this.packets > SHOWN_A_SECOND) this.isFolded = true;
    return !this.isFolded;
  }

  /** A second with so many packets is over. */
  second(packets = this.packets): void {
    if (packets <= SHOWN_A_SECOND) this.isFolded = false;
    this.packets = 0;
  }
}
