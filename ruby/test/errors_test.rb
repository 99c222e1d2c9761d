# frozen_string_literal: true

require "helper"

# The classes are the rows of protocol/errors.json, and no others.
class ErrorsTest < Minitest::Test
  TABLE = JSON.parse(File.read(File.join(PROTOCOL, "errors.json")))

  class TooPoor < Sabir::ApplicationError
    CODE = 1001

    def initialize(missing)
      super("too poor", data: { missing: missing })
    end
  end

  def test_one_class_for_each_row
    rows = TABLE.fetch("errors").map { |row| row.values_at("name", "code", "outcome", "retryable") }
    classes = Sabir::Errors::BY_CODE.map do |code, row|
      error = row.new
      assert_equal code, error.code
      [row.name.delete_prefix("Sabir::"), code, error.outcome, error.retryable?]
    end
    assert_equal rows.sort, classes.sort
    assert_equal TABLE["reserved"].values_at("from", "to"), Sabir::Errors::RESERVED.minmax
  end

  def test_the_code_chooses_the_class # SABIR-ERROR-4
    assert_instance_of Sabir::WorkerLost, Sabir::Errors.build(-32_005, "m")
    assert_instance_of Sabir::SabirError, Sabir::Errors.build(-32_099, "m")
    assert_instance_of Sabir::ApplicationError, Sabir::Errors.build(1001, "m")
    assert_instance_of TooPoor, Sabir::Errors.build(1001, "m", own: { 1001 => TooPoor })
    assert_instance_of Sabir::SabirError, Sabir::Errors.build(-32_099, "m", own: { -32_099 => TooPoor })
  end

  def test_an_error_of_a_response_keeps_all_of_it # SABIR-ERROR-5
    error = Sabir::Errors.build(1001, "poor", { "missing" => 3 }, own: { 1001 => TooPoor })
    assert_equal [1001, "poor", { "missing" => 3 }, "ran", false],
                 [error.code, error.message, error.data, error.outcome, error.retryable?]
  end

  def test_an_application_error_has_the_code_of_its_class
    error = TooPoor.new(3)
    assert_equal [1001, "too poor", { missing: 3 }], [error.code, error.message, error.data]
    assert_equal 1, Sabir::ApplicationError.new("m").code
    assert_equal 7, Sabir::ApplicationError.new("m", code: 7).code
  end
end
