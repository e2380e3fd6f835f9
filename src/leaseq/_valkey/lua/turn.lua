-- What producers and consumers do.

local ops = {
  put = putting, claim = claiming, ack = settling, release = settling, reject = settling,
  give_back = settling, undo = settling, extend = settling, close = settling, sweep = waiting,
  wake = waiting, unpark = waiting, parked = waiting, join = waiting, transact = transacting,
}
