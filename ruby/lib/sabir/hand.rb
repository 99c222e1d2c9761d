# frozen_string_literal: true

require_relative "commands"
require_relative "connection"

module Sabir
  # What a worker has taken and not finished, as it knows it.
  # @api private
  class Hand
    # An element that was taken: when the take was sent, and how often the lease had been lost by then.
    Taken = Struct.new(:element, :sent, :losses)

    LEASE_S = Commands::LEASE_MS / 1000.0
    MARGIN_S = 2.0 # how long Redis may take to answer

    # @param losses [#call] how often the lease has been lost
    def initialize(keys, worker, trying, logger, &losses)
      @keys = keys
      @worker = worker
      @trying = trying
      @logger = logger
      @losses = losses
      @lock = Mutex.new
      @held = Hash.new(0) # how often we know each element to be in it
    end

    # @return [Array<Taken>] what is in it and has not been seen yet, oldest first [SABIR-LOST-3]
    def unseen(line)
      known = @lock.synchronize { @held.dup }
      taking { look(line).reject { |element| (known[element] -= 1) >= 0 } }
    end

    # @yieldreturn [Array<String>] the bytes that a take, or a look, has brought
    # @return [Array<Taken>]
    def taking
      sent = Clock.monotonic
      losses = @losses.call
      elements = yield
      @lock.synchronize { elements.map { |element| Taken.new(element, sent, losses).tap { @held[element] += 1 } } }
    end

    # @return [Boolean] whether the lease has not ended since the element was taken [SABIR-LEASE-3]
    def fresh?(taken) = taken.losses == @losses.call && Clock.monotonic - taken.sent < LEASE_S

    # Reads it until it is known of an element whether it is still there.
    # @return [Boolean] whether it has left: then it is somebody else's, and forgotten
    # @raise [Connection::Lost, Connection::Refused]
    def lost?(line, taken)
      until fresh?(taken)
        sent = Clock.monotonic
        losses = @losses.call
        return forget(taken.element) if look(line).count(taken.element) < @held[taken.element]

        taken.sent = sent
        taken.losses = losses
      end
      false
    end

    # Ends an element's stay. What was lost on the way is sent again only while the element is still there, and nothing
    # can happen any more on the lost connection [SABIR-LOST-4].
    def settle(line, commands, element)
      sent = false
      @trying.call("reply") do
        hand = look(line) if sent || !line.open?
        next if sent && hand && hand.count(element) < @held[element]

        sent = true
        answer = Connection.value(line.exchange(commands, MARGIN_S).last)
        # To a key of another type, say: as if it had been pushed [SABIR-WORKER-6].
        Array(answer).grep(Exception).first(1).each { |error| @logger.warn("reply: refused: #{error.message}") }
      end
      drop(element)
    end

    # Gives back what nobody has begun: it is the end of the hand [SABIR-STOP-3].
    # @param taken [Array<Taken>] oldest first
    def give_back(line, taken)
      taken.reverse_each do |last|
        lost = @trying.call("hand") { lost?(line, last) }
        settle(line, Commands.give_back(@keys, @worker), last.element) unless lost
      end
    end

    # Gives back all of it, when no handler runs any more.
    def empty(line)
      look(line).reverse_each { |element| settle(line, Commands.give_back(@keys, @worker), element) }
    end

    private

    # @return [Array<String>] the list as it is
    def look(line)
      line.open? || line.reopen(MARGIN_S) || sleep(Commands::TAKE_MS / 1000.0)
      Connection.value(line.exchange(Commands.read_hand(@keys, @worker), MARGIN_S).first).map(&:b)
    rescue Connection::Refused
      line.close # or the next attempt would not look again
      raise
    end

    def drop(element) = @lock.synchronize { (@held[element] -= 1).positive? || @held.delete(element) }

    def forget(element)
      drop(element)
      @logger.warn("#{@keys.service}: a request that was not started has been recovered by others")
      true
    end
  end
end
