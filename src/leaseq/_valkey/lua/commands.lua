-- Operations of producers and consumers.

adds = true

local ops = {
  put = puts, discard = puts, claim = claims, ack = settlements, release = settlements, reject = settlements,
  give_back = settlements, abandon = settlements, undo = settlements, extend = settlements, close = settlements,
  cancel = settlements, hold_on = settlements,
  sweep = waits, wake = waits, unpark = waits, parked = waits, join = waits,
  transact = transactions, keep_values = values, recall = values, stop_waiting = values,
}
