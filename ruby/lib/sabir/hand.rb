# frozen_string_literal: true

require_relative "commands"
require_relative "connection"

module Sabir
  # What a worker has taken and not finished, as it knows it.
  # @api private
  class Hand
    # An element that was taken: when the take was sent, and how often the lease had been lost by then. When it has
    # ended: the commands with which it leaves the hand, and whether they have been sent, with an unknown end.
    Taken = Struct.new(:element, :sent, :losses, :ending, :unsure)

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
      @held = {}.compare_by_identity # what we know to be in it: those Taken
    end

    # @return [Array<Taken>] what is in it and has not been seen yet, oldest first [SABIR-LOST-3]
    def unseen(line)
      known = @lock.synchronize { @held.keys }.map(&:element).tally
      known.default = 0
      taking { look(line).reject { |element| (known[element] -= 1) >= 0 } }
    end

    # @yieldreturn [Array<String>] the bytes that a take, or a look, has brought
    # @return [Array<Taken>]
    def taking
      sent = Clock.monotonic
      losses = @losses.call
      elements = yield
      @lock.synchronize { elements.map { |element| Taken.new(element, sent, losses).tap { |it| @held[it] = true } } }
    end

    # Takes one; in the same write, and in front of it, what has ended leaves the hand.
    # @param take [Array<Array<String>>] commands, of which the last one brings the element
    # @param ended [Taken, nil] its ending is nil afterwards, unless Redis refused it
    # @return [Taken, nil] nil: none came
    # @raise [Connection::Lost, Connection::Refused] the take has failed
    def take(line, take, patience, ended)
      ending = ended&.ending || []
      answers = []
      taken, = taking do
        ended.unsure = true if ended
        line.exchange(ending + take, patience) do |answer|
          leave(ended, answer) if (answers << answer).size == ending.size
        end
        answers.last.is_a?(String) ? [binary(answers.last)] : []
      end
      answers.last(take.size).reverse_each { |answer| Connection.value(answer) } unless taken
      taken
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
        return forget(taken) if gone?(taken, look(line))

        taken.sent = sent
        taken.losses = losses
      end
      false
    end

    # Ends an element's stay. What was lost on the way is sent again only while the element is still there, and nothing
    # can happen any more on the lost connection [SABIR-LOST-4].
    # @param line [Connection] the one on which it was sent, if it is unsure
    def settle(line, taken)
      @trying.call("reply") do
        hand = look(line) if taken.unsure || !line.open?
        next if taken.unsure && gone?(taken, hand)

        taken.unsure = true
        answer = line.exchange(taken.ending, MARGIN_S).last
        Connection.value(answer)
        leave(taken, answer)
      end
      drop(taken)
    end

    # Gives back what nobody has begun: it is the end of the hand [SABIR-STOP-3].
    # @param taken [Array<Taken>] oldest first
    def give_back(line, taken)
      taken.reverse_each do |last|
        lost = @trying.call("hand") { lost?(line, last) }
        send_back(line, last) unless lost
      end
    end

    # Gives back all of it, when no handler runs any more.
    def empty(line)
      look(line).reverse_each { |element| send_back(line, known(element) || Taken.new(element)) }
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

    def send_back(line, taken)
      taken.ending = Commands.give_back(@keys, @worker)
      taken.unsure = false
      settle(line, taken)
    end

    # @param answer [Object] to the last command of its ending
    def leave(taken, answer)
      return if answer.is_a?(Exception)

      # To a key of another type, say: as if it had been pushed [SABIR-WORKER-6].
      error = answer.find { |part| part.is_a?(Exception) } if answer.is_a?(Array)
      @logger.warn("reply: refused: #{error.message}") if error
      drop(taken)
    end

    def drop(taken)
      taken.ending = nil
      @lock.synchronize { @held.delete(taken) }
    end

    # Equal elements can't be told apart.
    # @param hand [Array<String>] as it was just read
    def gone?(taken, hand)
      held = @lock.synchronize { @held.keys }.count { |it| it.element == taken.element }
      hand.count(taken.element) < held
    end

    def known(element) = @lock.synchronize { @held.keys }.find { |taken| taken.element == element }

    # The same String, as bytes: it may be long.
    def binary(string) = string.frozen? ? string.b : string.force_encoding(Encoding::BINARY)

    def forget(taken)
      drop(taken)
      @logger.warn("#{@keys.service}: a request that was not started has been recovered by others")
      true
    end
  end
end
